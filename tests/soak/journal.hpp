// What happens during a soak, with its time since the start: a file for whoever asks afterwards, and the
// violations that are found on the way.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/observe/observer.hpp"
#include "soak/history.hpp"

namespace soak {

/// Thread-safe.
class Journal {
 public:
  explicit Journal(const std::string& path) : file_(path), path_(path) {}

  void line(const std::string& text) {
    const std::lock_guard lock(mutex_);
    write(text);
  }
  /// Something that must never happen.
  void violation(const std::string& text) {
    const std::lock_guard lock(mutex_);
    write("VIOLATION " + text);
    violations_.push_back(text);
    file_.flush();
  }
  std::vector<std::string> violations() const {
    const std::lock_guard lock(mutex_);
    return violations_;
  }
  std::int64_t offset_ms(Clock::time_point time) const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(time - start_).count();
  }
  const std::string& path() const { return path_; }
  void flush() {
    const std::lock_guard lock(mutex_);
    file_.flush();
  }

 private:
  void write(const std::string& text) { file_ << offset_ms(Clock::now()) << " ms: " << text << '\n'; }

  mutable std::mutex mutex_;
  std::ofstream file_;
  const std::string path_;
  const Clock::time_point start_ = Clock::now();
  std::vector<std::string> violations_;
};

/// The library's log lines go to the journal, its counters here.
class Ears : public registry::Logger, public registry::Metrics {
 public:
  Ears(Journal& journal, std::string who) : journal_(journal), who_(std::move(who)) {}
  void log(registry::LogLevel, std::string_view text) noexcept override {
    journal_.line(who_ + ": " + std::string(text));
  }
  void add(const registry::Metric& metric, std::string_view service, double amount) noexcept override {
    const std::lock_guard lock(mutex_);
    counters_[{std::string(metric.name), std::string(service)}] += amount;
  }
  std::size_t count(const std::string& name, const std::string& service) const {
    const std::lock_guard lock(mutex_);
    const auto found = counters_.find({name, service});
    return found == counters_.end() ? 0 : static_cast<std::size_t>(found->second);
  }

 private:
  Journal& journal_;
  const std::string who_;
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, double> counters_;
};

}  // namespace soak
