// Reading a file, and replacing one so that after a crash at any moment either the old or the new one is
// there.
#pragma once

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

namespace registry::detail {

inline std::error_code system_error_now() noexcept { return std::error_code(errno, std::generic_category()); }

/// An open file; closes itself.
class OpenFile {
 public:
  OpenFile(const char* path, int flags) : descriptor_(::open(path, flags | O_CLOEXEC, 0600)) {}
  OpenFile(const OpenFile&) = delete;
  OpenFile& operator=(const OpenFile&) = delete;
  ~OpenFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  explicit operator bool() const noexcept { return descriptor_ >= 0; }
  int get() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

/// What an open file still holds, `most` bytes at the most.
inline std::string read_up_to(const OpenFile& file, std::size_t most, std::error_code& error) {
  std::string text;
  while (text.size() < most) {
    const std::size_t size = text.size();
    text.resize(size + std::min<std::size_t>(most - size, 64 * 1024));
    const auto got = ::read(file.get(), text.data() + size, text.size() - size);
    const bool again = got < 0 && errno == EINTR;
    if (got < 0 && !again) error = system_error_now();
    text.resize(size + (got > 0 ? static_cast<std::size_t>(got) : 0));
    if (got <= 0 && !again) break;
  }
  return text;
}

/// The whole file.
inline std::string read_file(const std::string& path, std::error_code& error) {
  const OpenFile file(path.c_str(), O_RDONLY);
  if (file) return read_up_to(file, std::string::npos, error);
  error = system_error_now();
  return std::string();
}

/// Writes a new file beside the old one, and puts it in its place when it is safe on disk. One writer at a
/// time. The file is readable for its owner only. Throws std::system_error; the old file is then as it was.
inline void replace_file(const std::string& path, std::string_view content) {
  const std::string fresh = path + ".tmp";
  const auto check = [&](bool good) {
    if (good) return;
    const auto error = system_error_now();
    ::unlink(fresh.c_str());
    throw std::system_error(error);
  };
  ::unlink(fresh.c_str());  // left by a crash
  {
    const OpenFile file(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL);
    if (!file) throw std::system_error(system_error_now());
    while (!content.empty()) {
      const auto put = ::write(file.get(), content.data(), content.size());
      if (put < 0 && errno == EINTR) continue;
      check(put >= 0);
      content.remove_prefix(static_cast<std::size_t>(put));
    }
    check(::fsync(file.get()) == 0);
  }
  check(::rename(fresh.c_str(), path.c_str()) == 0);
  const auto slash = path.rfind('/');
  const std::string folder = slash == path.npos ? "." : path.substr(0, slash + 1);
  const OpenFile directory(folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (directory) ::fsync(directory.get());  // not every file system can; the file itself is safe
}

}  // namespace registry::detail
