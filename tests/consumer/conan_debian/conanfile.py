"""A Debian package as a Conan package, with the names of ConanCenter: stands in for it where it cannot be reached.

conan export . --name grpc --version 1.51.1
"""

from conan import ConanFile

# Conan package: (file that find_package reads, component, CMake target, libraries)
PACKAGES = {
    "asio": ("asio", None, "asio::asio", []),
    "boost": ("Boost", "json", "Boost::json", ["boost_json"]),
    "grpc": ("gRPC", "grpc++", "gRPC::grpc++", ["grpc++", "grpc", "gpr", "absl_synchronization"]),
    "prometheus-cpp": ("prometheus-cpp", "prometheus-cpp-core", "prometheus-cpp::core", ["prometheus-cpp-core"]),
    "protobuf": ("protobuf", "libprotobuf", "protobuf::libprotobuf", ["protobuf"]),
    "spdlog": ("spdlog", "libspdlog", "spdlog::spdlog", ["fmt"]),
    "yaml-cpp": ("yaml-cpp", None, "yaml-cpp::yaml-cpp", ["yaml-cpp"]),
}


class DebianConan(ConanFile):
    settings = "os", "arch", "compiler", "build_type"

    def requirements(self):
        if self.name == "grpc":
            self.requires("protobuf/3.21.12", transitive_headers=True, transitive_libs=True)

    def package_info(self):
        file, component, target, libraries = PACKAGES[self.name]
        self.cpp_info.set_property("cmake_file_name", file)
        info = self.cpp_info.components[component] if component else self.cpp_info
        info.set_property("cmake_target_name", target)
        info.includedirs = info.libdirs = []
        info.system_libs = libraries
        if self.name == "grpc":
            info.requires = ["protobuf::libprotobuf"]
