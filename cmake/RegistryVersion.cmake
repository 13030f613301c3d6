# registry_version, as include/registry/version.hpp has it.
set(registry_version "")
foreach(part MAJOR MINOR PATCH)
  file(STRINGS "${CMAKE_CURRENT_LIST_DIR}/../include/registry/version.hpp" line REGEX "#define REGISTRY_VERSION_${part} [0-9]+$")
  string(REGEX MATCH "[0-9]+$" number "${line}")
  list(APPEND registry_version ${number})
endforeach()
list(JOIN registry_version "." registry_version)
