// Whatever may change what a path leads to, seen by inotify. Every folder on the way is watched for the name that the path
// takes in it, through symbolic links: so an editor's rename, a write in place, a swapped link (as Kubernetes swaps ..data)
// and a folder that comes back are all the same.
#pragma once

#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <system_error>
#include <utility>

#include "registry/store/file.hpp"

namespace registry::detail {

/// What an event calls for.
enum class Stir {
  Nothing,
  Look,  ///< something went away, begins to be written, or may be read by others: see what the path leads to
  Read,  ///< something is complete
};

/// What an event (`mask`, as in inotify(7)) at a name on the path calls for. `being_written`: the name is a regular file,
/// which an editor writes and then closes; anything else that was created is complete at once.
inline Stir judge(std::uint32_t mask, bool being_written) noexcept {
  if (mask & (IN_CLOSE_WRITE | IN_MOVED_TO | IN_Q_OVERFLOW | IN_UNMOUNT)) return Stir::Read;
  if (mask & IN_CREATE) return being_written ? Stir::Look : Stir::Read;
  if (mask & (IN_DELETE | IN_MOVED_FROM | IN_IGNORED | IN_ATTRIB)) return Stir::Look;
  return Stir::Nothing;
}

/// Not thread-safe. Never blocks for long: it reads folders and links.
class PathWatch {
 public:
  /// `path` is absolute. Throws std::system_error if its folder cannot be watched.
  explicit PathWatch(std::filesystem::path path)
      : path_(std::move(path)), inotify_(::inotify_init1(IN_NONBLOCK | IN_CLOEXEC)) {
    if (inotify_ < 0) raise("inotify (fs.inotify.max_user_instances may be too low)");
    try {
      arm();
    } catch (...) {
      ::close(inotify_);
      throw;
    }
  }
  PathWatch(const PathWatch&) = delete;
  PathWatch& operator=(const PathWatch&) = delete;
  ~PathWatch() {
    if (owned_) ::close(inotify_);
  }

  /// Readable when `drain` has something to tell.
  int descriptor() const noexcept { return inotify_; }
  /// Someone else closes the descriptor from now on; this must then not be used any more.
  void disown() noexcept { owned_ = false; }

  /// Watches the way as it is now. Each folder before what is in it is looked at, so nothing is missed between.
  void arm() {
    Places now;
    std::filesystem::path at = path_.root_path();
    std::deque<std::filesystem::path> rest;
    put_first(rest, path_.relative_path());
    for (int links = 0; !rest.empty() && links < 40;) {
      const auto name = rest.front();
      rest.pop_front();
      if (name.empty() || name == ".") continue;
      if (name == "..") {
        at = at.parent_path();
        continue;
      }
      const int folder = watch(at, rest.empty() ? folder_events | file_events : folder_events);
      const int error = folder < 0 ? errno : 0;
      if (error == ENOENT || error == ENOTDIR) return keep(std::move(now));
      // Of the folders above, those that may not be read are left out.
      if (error != 0 && (error != EACCES || rest.empty())) raise(at.string());
      if (folder >= 0) {
        now[folder].folder = at;
        now[folder].names.insert(name.string());
      }
      std::error_code no_link;
      const auto target = std::filesystem::read_symlink(at / name, no_link);
      if (no_link) {
        at /= name;
        continue;
      }
      ++links;
      if (target.is_absolute()) at = target.root_path();
      put_first(rest, target.relative_path());
    }
    // By another name, or through a mount of this file alone, it is written to without an event in this folder.
    const int file = watch(at, file_events);
    if (file >= 0) now[file].names.insert("");
    keep(std::move(now));
  }

  /// The strongest of all events so far.
  Stir drain() {
    Stir all = Stir::Nothing;
    alignas(inotify_event) std::array<char, 4096> buffer;
    while (true) {
      const auto size = ::read(inotify_, buffer.data(), buffer.size());
      if (size < 0 && errno == EINTR) continue;
      if (size < 0 && errno == EAGAIN) return all;
      if (size < 0) raise("inotify");
      for (std::size_t at = 0; at < static_cast<std::size_t>(size);) {
        inotify_event event;
        std::memcpy(&event, buffer.data() + at, sizeof event);
        const std::string name = event.len == 0 ? "" : buffer.data() + at + sizeof event;
        at += sizeof event + event.len;
        all = std::max(all, judge(event, name));
      }
    }
  }

 private:
  static constexpr std::uint32_t folder_events =
      IN_MOVED_TO | IN_MOVED_FROM | IN_CREATE | IN_DELETE | IN_ONLYDIR | IN_EXCL_UNLINK;
  static constexpr std::uint32_t file_events = IN_CLOSE_WRITE | IN_ATTRIB;

  struct Place {
    std::filesystem::path folder;  // empty: the file itself, with the name ""
    std::set<std::string> names;

    Place() {}
  };
  using Places = std::map<int, Place>;  // by watch descriptor

  [[noreturn]] static void raise(const std::string& what) {
    throw std::system_error(system_error_now(), what + ": cannot be watched");
  }

  static void put_first(std::deque<std::filesystem::path>& rest, const std::filesystem::path& parts) {
    rest.insert(rest.begin(), parts.begin(), parts.end());
  }

  int watch(const std::filesystem::path& at, std::uint32_t events) const {
    return ::inotify_add_watch(inotify_, at.c_str(), events | IN_MASK_ADD);
  }

  /// Forgets what is on the way no more.
  void keep(Places now) {
    const Places before = std::exchange(names_, std::move(now));
    for (const auto& [descriptor, place] : before) {
      if (!names_.contains(descriptor)) ::inotify_rm_watch(inotify_, descriptor);
    }
  }

  Stir judge(const inotify_event& event, const std::string& name) const {
    if (event.mask & IN_Q_OVERFLOW) return detail::judge(event.mask, false);
    const auto place = names_.find(event.wd);
    if (place == names_.end()) return Stir::Nothing;
    const bool whole = event.mask & (IN_IGNORED | IN_UNMOUNT);
    if (!whole && !place->second.names.contains(name)) return Stir::Nothing;
    // A file with a second name was linked, not opened.
    struct stat about = {};
    const bool there = ::lstat((place->second.folder / name).c_str(), &about) == 0;
    return detail::judge(event.mask, there && S_ISREG(about.st_mode) && about.st_nlink == 1);
  }

  const std::filesystem::path path_;
  const int inotify_;
  bool owned_ = true;
  Places names_;
};

}  // namespace registry::detail
