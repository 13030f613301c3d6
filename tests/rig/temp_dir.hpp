// A directory of its own for one test, under TMPDIR, gone with the object. REGISTRY_RIG_KEEP=1 keeps it (and
// says where it is), for looking at the logs of a failed run.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>
#include <utility>

namespace rig {

class TempDir {
 public:
  TempDir() {
    const char* base = std::getenv("TMPDIR");
    std::string name = std::string(base && *base ? base : "/tmp") + "/registry-rig-XXXXXX";
    if (!::mkdtemp(name.data())) throw std::system_error(errno, std::generic_category(), "mkdtemp " + name);
    path_ = std::move(name);
  }
  ~TempDir() { remove(); }
  TempDir(TempDir&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TempDir& operator=(TempDir&& other) noexcept {
    if (this != &other) {
      remove();
      path_ = std::exchange(other.path_, {});
    }
    return *this;
  }

  const std::string& path() const noexcept { return path_; }
  /// The path of a file or folder in it.
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }

 private:
  void remove() noexcept {
    if (path_.empty()) return;
    if (std::getenv("REGISTRY_RIG_KEEP")) {
      std::cerr << "kept: " << path_ << std::endl;
      return;
    }
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  std::string path_;
};

}  // namespace rig
