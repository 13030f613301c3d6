# Flags of our own sources, never of a consumer's: registry_options (warnings) and registry_sanitizers (REGISTRY_SANITIZE).
add_library(registry_options INTERFACE)
target_compile_options(registry_options INTERFACE -Wall -Wextra -Wpedantic -Wshadow)

add_library(registry_sanitizers INTERFACE)
set(REGISTRY_NO_RECYCLING_HEADER "${CMAKE_CURRENT_LIST_DIR}/asio_no_recycling.hpp")
if(REGISTRY_SANITIZE)
  list(JOIN REGISTRY_SANITIZE "," sanitizers)
  target_compile_options(registry_sanitizers INTERFACE
    -fsanitize=${sanitizers} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(registry_sanitizers INTERFACE -fsanitize=${sanitizers})
endif()

# For targets without a precompiled header; those with one put the header first in it instead.
function(registry_disable_recycling target)
  if(REGISTRY_SANITIZE)
    target_compile_options(${target} PRIVATE "SHELL:-include ${REGISTRY_NO_RECYCLING_HEADER}")
  endif()
endfunction()
