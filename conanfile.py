"""Conan 2 recipe: headers, their definitions and the generated stub as static libraries, and one component for each optional library.

conan create . --build=missing -s compiler.cppstd=20
"""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir

required_conan_version = ">=2.1"


class RegistryConan(ConanFile):
    name = "registry"
    description = "Service registration and discovery on etcd v3 for C++20 coroutines"
    license = "Apache-2.0"
    topics = ("etcd", "service-discovery", "grpc", "asio", "coroutines")
    package_type = "static-library"
    settings = "os", "arch", "compiler", "build_type"
    options = {
        "with_spdlog": [True, False],
        "with_prometheus": [True, False],
        "with_yaml": [True, False],
    }
    default_options = {
        "with_spdlog": False,
        "with_prometheus": False,
        "with_yaml": False,
    }
    exports_sources = "CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "proto/*", "src/*"

    def set_version(self):
        header = load(self, os.path.join(self.recipe_folder, "include", "registry", "version.hpp"))
        self.version = ".".join(re.findall(r"#define REGISTRY_VERSION_[A-Z]+ (\d+)", header))

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        # Our headers include theirs, and gRPC decides which protobuf it is built with.
        self.requires("grpc/[>=1.50 <2]", transitive_headers=True, transitive_libs=True)
        self.requires("protobuf/[>=3.21]", transitive_headers=True, transitive_libs=True)
        self.requires("asio/[>=1.22 <2]", transitive_headers=True)
        self.requires("boost/[>=1.81 <2]", transitive_headers=True, transitive_libs=True)
        if self.options.with_spdlog:
            self.requires("spdlog/[>=1.10 <2]", transitive_headers=True, transitive_libs=True)
        if self.options.with_prometheus:
            self.requires("prometheus-cpp/[>=1.0 <2]", transitive_headers=True, transitive_libs=True)
        if self.options.with_yaml:
            self.requires("yaml-cpp/[>=0.7 <1]", transitive_headers=True, transitive_libs=True)

    def build_requirements(self):
        self.tool_requires("cmake/[>=3.25]")
        # protoc and the plugin for the machine that builds, of the versions that are linked.
        self.tool_requires("grpc/<host_version>")
        self.tool_requires("protobuf/<host_version>")

    def validate(self):
        check_min_cppstd(self, 20)

    def _components(self):
        return [name for name in ("spdlog", "prometheus", "yaml") if self.options.get_safe(f"with_{name}")]

    def generate(self):
        toolchain = CMakeToolchain(self)
        toolchain.cache_variables["REGISTRY_BUILD_TESTS"] = False
        toolchain.cache_variables["REGISTRY_BUILD_EXAMPLES"] = False
        toolchain.cache_variables["REGISTRY_COMPONENTS"] = ";".join(self._components())
        toolchain.generate()
        CMakeDeps(self).generate()

    def build(self):
        cmake = CMake(self)
        cmake.configure()
        cmake.build()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()
        rmdir(self, os.path.join(self.package_folder, "lib", "cmake"))  # Conan writes what find_package finds

    def package_info(self):
        self.cpp_info.set_property("cmake_file_name", "registry")
        self.cpp_info.set_property("cmake_target_name", "registry::all")  # registry::registry is one of the components

        stub = self.cpp_info.components["stub"]
        stub.set_property("cmake_target_name", "registry::stub")
        stub.libs = ["registry_stub"]
        stub.includedirs = [os.path.join("include", "registry_stub")]
        stub.requires = ["grpc::grpc++", "protobuf::libprotobuf"]

        headers = self.cpp_info.components["header_only"]
        headers.set_property("cmake_target_name", "registry::header_only")
        headers.requires = ["stub", "grpc::grpc++", "asio::asio", "boost::json"]
        headers.defines = ["ASIO_STANDALONE"]
        if self.settings.compiler == "clang":
            headers.defines.append("ASIO_HAS_CO_AWAIT=1")  # Asio 1.22 knows the coroutines of GCC and MSVC only
        headers.libdirs = []
        if self.settings.os in ("Linux", "FreeBSD"):
            headers.system_libs = ["pthread"]

        core = self.cpp_info.components["core"]
        core.set_property("cmake_target_name", "registry::registry")
        core.libs = ["registry"]
        core.defines = ["REGISTRY_COMPILED"]
        core.requires = ["header_only"]

        libraries = {
            "spdlog": "spdlog::libspdlog",
            "prometheus": "prometheus-cpp::prometheus-cpp-core",
            "yaml": "yaml-cpp::yaml-cpp",
        }
        for name in self._components():
            component = self.cpp_info.components[name]
            component.set_property("cmake_target_name", f"registry::{name}")
            component.libdirs = []
            component.requires = ["core", libraries[name]]
