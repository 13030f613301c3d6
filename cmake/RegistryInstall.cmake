# Install rules: the headers, the compiled library, the stub with its generated headers, and a package that find_package(registry) finds.
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/registry")
get_target_property(stub_headers registry_stub REGISTRY_GENERATED_HEADERS)

install(TARGETS registry registry_header_only registry_stub EXPORT registry-targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY "${PROJECT_SOURCE_DIR}/include/registry" DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.hpp")
install(FILES ${stub_headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/registry_stub)
install(EXPORT registry-targets NAMESPACE registry:: DESTINATION ${package_dir})

# Each component is a file of its own, read only by who asks for it: nobody else needs its library.
foreach(component IN LISTS REGISTRY_COMPONENTS)
  install(TARGETS registry_${component} EXPORT registry-${component}-targets)
  install(EXPORT registry-${component}-targets NAMESPACE registry:: DESTINATION ${package_dir})
endforeach()

configure_package_config_file(cmake/registry-config.cmake.in "${PROJECT_BINARY_DIR}/registry-config.cmake"
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
# Before 1.0 a minor version may change the interface.
write_basic_package_version_file("${PROJECT_BINARY_DIR}/registry-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/registry-config.cmake" "${PROJECT_BINARY_DIR}/registry-config-version.cmake"
  "${PROJECT_SOURCE_DIR}/cmake/RegistryDependencies.cmake" DESTINATION ${package_dir})
