// The lists of services in files, for a start while the store is out of reach.
#pragma once

#include <algorithm>
#include <chrono>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"
#include "registry/model/text.hpp"
#include "registry/observe/observer.hpp"
#include "registry/store/file.hpp"
#include "registry/store/snapshot_file.hpp"

namespace registry::detail {

/// The file of one service. What goes wrong with it is logged and loses nothing: without the file one starts as one
/// without this feature. Not thread-safe.
class LastKnownGood {
 public:
  /// A list, and how long ago it was confirmed by the store, at the longest.
  struct Saved {
    StoreSnapshot snapshot;
    std::chrono::system_clock::duration age{};
  };

  /// `range` holds the keys of the service. An empty folder: there is no file.
  LastKnownGood(const std::string& folder, const std::string& service, KeyRange range, Observer observer)
      : folder_(folder),
        file_(folder.empty() ? "" : folder + "/" + percent_encoded(service) + ".json"),
        range_(std::move(range)),
        observer_(std::move(observer)) {}

  explicit operator bool() const noexcept { return !file_.empty(); }
  const std::string& file() const noexcept { return file_; }

  std::optional<Saved> load() const {
    if (file_.empty()) return std::nullopt;
    try {
      auto snapshot = read_snapshot(file_);
      if (!snapshot) return std::nullopt;
      for (const auto& pair : snapshot->pairs) {
        if (!pair->key.starts_with(range_.begin))
          fail(errc::bad_snapshot,
               quote(file_, 4096) + ": is of another namespace or service: " + quote(pair->key, 200));
      }
      Saved saved;
      const auto written = std::filesystem::last_write_time(file_);
      const auto age = std::filesystem::file_time_type::clock::now() - written;
      saved.age = std::max(std::chrono::duration_cast<std::chrono::system_clock::duration>(age), saved.age);
      saved.snapshot = *std::move(snapshot);
      return saved;
    } catch (const std::exception& error) {
      observer_.log(LogLevel::Warning, std::string("last known good list not used: ") + error.what());
      return std::nullopt;
    }
  }

  /// The same failure again and again is logged once.
  void save(const StoreSnapshot& snapshot) {
    std::string failure;
    try {
      std::filesystem::create_directories(folder_);
      write_snapshot(file_, snapshot);
    } catch (const std::exception& error) {
      failure = "last known good list not written to " + quote(file_, 4096) + ": " + error.what();
    }
    if (failure != std::exchange(failure_, failure) && !failure.empty())
      observer_.log(LogLevel::Warning, failure);
  }

 private:
  const std::string folder_, file_;
  const KeyRange range_;
  const Observer observer_;
  std::string failure_;
};

}  // namespace registry::detail
