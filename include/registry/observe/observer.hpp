// What the library tells the application about itself: log lines and counters, through interfaces the
// application implements. By default nothing is told to anyone.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace registry {

enum class LogLevel { Debug, Info, Warning, Error };

/// Receives log lines. Called from any thread, with no lock of the library held; must not throw.
class Logger {
 public:
  virtual ~Logger() = default;
  /// `text` is one line of UTF-8 without a line end, and valid only during the call. It may quote text from
  /// the network or the store: never use it as a format.
  virtual void log(LogLevel level, std::string_view text) noexcept = 0;
};

/// Receives counters. Called from any thread, with no lock of the library held; must not throw.
class Metrics {
 public:
  virtual ~Metrics() = default;
  /// Adds to the counter `name` (Prometheus conventions). `service` is its label, empty where it has none.
  virtual void add(std::string_view name, std::string_view service, double amount) noexcept = 0;
};

/// Where log lines and counters go. Cheap to copy; every member may be null.
class Observer {
 public:
  Observer() {}
  explicit Observer(std::shared_ptr<Logger> logger, std::shared_ptr<Metrics> metrics = {})
      : logger_(std::move(logger)), metrics_(std::move(metrics)) {}

  bool logs() const noexcept { return logger_ != nullptr; }
  void log(LogLevel level, std::string_view text) const noexcept {
    if (logger_) logger_->log(level, text);
  }
  void count(std::string_view name, std::string_view service = {}, double amount = 1) const noexcept {
    if (metrics_) metrics_->add(name, service, amount);
  }

 private:
  std::shared_ptr<Logger> logger_;
  std::shared_ptr<Metrics> metrics_;
};

}  // namespace registry
