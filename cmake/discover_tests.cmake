# Run after a test binary is linked: writes a ctest file with one entry for each of its test cases. Unlike doctest's own
# discovery it copes with semicolons in names, and a name whose own filter finds nothing fails instead of passing.
# Arguments: BINARY, FOLDER (the prefix and label of its tests), OUT.
include("${CMAKE_CURRENT_LIST_DIR}/SanitizerEnvironment.cmake")

execute_process(COMMAND "${BINARY}" --list-test-cases --no-colors OUTPUT_VARIABLE output COMMAND_ERROR_IS_FATAL ANY)
string(REPLACE ";" "\\;" output "${output}")
string(REPLACE "[" "<open>" output "${output}")  # brackets group the elements of a CMake list
string(REPLACE "]" "<close>" output "${output}")
string(REPLACE "\n" ";" lines "${output}")

# Their bounds are times: no more than two of them run beside each other.
set(processors 1)
if(FOLDER STREQUAL "fault")
  set(processors 2)
endif()

set(script "")
foreach(name IN LISTS lines)
  string(REPLACE "<open>" "[" name "${name}")
  string(REPLACE "<close>" "]" name "${name}")
  if(name MATCHES "^(\\[doctest\\]|===)" OR name STREQUAL "")
    continue()
  endif()
  string(REPLACE "," "\\," filter "${name}")
  string(APPEND script
    "add_test([==[${FOLDER}: ${name}]==] [==[${BINARY}]==] [==[--test-case=${filter}]==])\n"
    "set_tests_properties([==[${FOLDER}: ${name}]==] PROPERTIES TIMEOUT 300 LABELS ${FOLDER} PROCESSORS ${processors}\n"
    "  FAIL_REGULAR_EXPRESSION [==[test cases: +0 ]==] ENVIRONMENT [==[${sanitizer_environment}]==])\n")
endforeach()
file(WRITE "${OUT}" "${script}")
