# Runs the vcpkg port where vcpkg is not at hand: functions of vcpkg's names do their work on what the system has installed.
#   cmake -DCURRENT_PORT_DIR=... -DFEATURES=yaml -DOUT=... -P port.cmake
cmake_minimum_required(VERSION 3.25)
set(PORT registry)
set(CURRENT_PACKAGES_DIR "${OUT}/packages")

function(vcpkg_check_linkage)
endfunction()

function(vcpkg_cmake_configure)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "SOURCE_PATH" "OPTIONS")
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${arg_SOURCE_PATH} -B ${OUT}/build -DCMAKE_BUILD_TYPE=Release ${arg_OPTIONS}
    COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(vcpkg_cmake_install)
  execute_process(COMMAND ${CMAKE_COMMAND} --build ${OUT}/build COMMAND_ERROR_IS_FATAL ANY)
  execute_process(COMMAND ${CMAKE_COMMAND} --install ${OUT}/build --prefix ${CURRENT_PACKAGES_DIR} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

function(vcpkg_cmake_config_fixup)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "CONFIG_PATH" "")
  file(MAKE_DIRECTORY "${CURRENT_PACKAGES_DIR}/share")
  file(RENAME "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}" "${CURRENT_PACKAGES_DIR}/share/${PORT}")
endfunction()

function(vcpkg_install_copyright)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "FILE_LIST")
  file(INSTALL ${arg_FILE_LIST} DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}" RENAME copyright)
endfunction()

include("${CURRENT_PORT_DIR}/portfile.cmake")

file(GLOB found RELATIVE "${CURRENT_PACKAGES_DIR}/share/${PORT}" "${CURRENT_PACKAGES_DIR}/share/${PORT}/*")
foreach(file registry-config.cmake registry-targets.cmake usage copyright)
  if(NOT file IN_LIST found)
    message(FATAL_ERROR "share/${PORT} has no ${file}")
  endif()
endforeach()
foreach(component spdlog prometheus yaml)
  if(component IN_LIST FEATURES AND NOT "registry-${component}-targets.cmake" IN_LIST found)
    message(FATAL_ERROR "the feature ${component} brings no registry::${component}")
  elseif(NOT component IN_LIST FEATURES AND "registry-${component}-targets.cmake" IN_LIST found)
    message(FATAL_ERROR "registry::${component} is there without its feature")
  endif()
endforeach()
