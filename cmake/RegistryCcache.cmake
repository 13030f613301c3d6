# Compiles through ccache where it is installed. The sloppiness is what ccache needs to cache sources with a precompiled header.
find_program(REGISTRY_CCACHE ccache)
mark_as_advanced(REGISTRY_CCACHE)
if(REGISTRY_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER
    ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime
    ${REGISTRY_CCACHE})
endif()
