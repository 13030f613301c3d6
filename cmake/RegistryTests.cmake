# Helpers of tests/CMakeLists.txt.

# The flags that everything with the shared precompiled header has in common.
function(registry_use_test_flags target)
  target_link_libraries(${target} PUBLIC registry::registry doctest::doctest
    registry::spdlog registry::prometheus prometheus-cpp::pull registry::yaml)
  target_link_libraries(${target} PRIVATE registry_options registry_sanitizers)
  target_include_directories(${target} PUBLIC "${PROJECT_SOURCE_DIR}/tests")
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    target_compile_options(${target} PRIVATE -fpch-preprocess)  # for ccache
  elseif(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    target_compile_options(${target} PRIVATE "SHELL:-Xclang -fno-pch-timestamp")
  endif()
endfunction()

# registry_add_tests(unit): the binary registry_unit of tests/unit/*.cpp, its test cases as ctest entries labelled "unit".
# A folder without sources has no binary.
function(registry_add_tests folder)
  file(GLOB sources CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${folder}/*.cpp")
  list(FILTER sources EXCLUDE REGEX "/unit_main\\.cpp$")
  if(NOT sources)
    return()
  endif()
  set(target registry_${folder})
  add_executable(${target} ${sources})
  registry_use_test_flags(${target})
  target_link_libraries(${target} PRIVATE registry_rig registry_test_main)
  target_precompile_headers(${target} REUSE_FROM registry_rig)

  set(tests_file "${CMAKE_CURRENT_BINARY_DIR}/${target}_tests.cmake")
  add_custom_command(TARGET ${target} POST_BUILD
    COMMAND ${CMAKE_COMMAND} -D BINARY=$<TARGET_FILE:${target}> -D FOLDER=${folder} -D OUT=${tests_file}
      -P ${PROJECT_SOURCE_DIR}/cmake/discover_tests.cmake
    BYPRODUCTS "${tests_file}"
    VERBATIM)
  set(include_file "${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake")
  file(WRITE "${include_file}"
    "if(EXISTS \"${tests_file}\")\n  include(\"${tests_file}\")\nelse()\n  add_test(${target}_NOT_BUILT ${target})\nendif()\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${include_file}")
endfunction()

# Every header below `root` compiles alone, with the flags of `target` but without sanitizers: only parsed, which takes half the
# time of compiling. A part of `all`, done again where a header or what it includes changed.
function(registry_check_headers root target)
  # -isystem of our own folder would hide its warnings, that of /usr/include break the standard library's.
  set(folders "$<FILTER:$<TARGET_PROPERTY:${target},INCLUDE_DIRECTORIES>,EXCLUDE,^(/usr/include|${root})$>")
  set(definitions "$<TARGET_PROPERTY:${target},COMPILE_DEFINITIONS>")
  set(flags -std=c++20 -Wall -Wextra -Wpedantic -Wshadow -Werror -I${root}
    "-D$<JOIN:${definitions},$<SEMICOLON>-D>" "-isystem$<JOIN:${folders},$<SEMICOLON>-isystem>")
  file(GLOB_RECURSE headers CONFIGURE_DEPENDS RELATIVE "${root}" "${root}/registry/*.hpp")
  set(stamps "")
  foreach(header IN LISTS headers)
    string(REPLACE "/" "_" name "${header}")
    set(source "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.cpp")
    set(stamp "${CMAKE_CURRENT_BINARY_DIR}/headers/${name}.ok")
    file(CONFIGURE OUTPUT "${source}" CONTENT "#include \"@header@\"\n" @ONLY)
    add_custom_command(OUTPUT "${stamp}"
      COMMAND ${CMAKE_CXX_COMPILER} ${flags} -fsyntax-only -MD -MF "${stamp}.d" -MT "${stamp}" "${source}"
      COMMAND ${CMAKE_COMMAND} -E touch "${stamp}"
      DEPENDS "${source}" registry_stub
      DEPFILE "${stamp}.d"
      COMMENT "Parsing ${header} alone"
      COMMAND_EXPAND_LISTS VERBATIM)
    list(APPEND stamps "${stamp}")
  endforeach()
  add_custom_target(registry_headers ALL DEPENDS ${stamps})
endfunction()
