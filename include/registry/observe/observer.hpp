// What the library tells the application about itself: log lines and counters, through interfaces the
// application implements. By default nothing is told to anyone.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "registry/observe/metric.hpp"

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

/// Receives the metrics that observe/metric.hpp lists. Called from any thread, with no lock of the library held; must
/// not throw.
class Metrics {
 public:
  virtual ~Metrics() = default;
  /// Adds to a counter, or to a gauge that several Registries share (then the amount may be negative). `service` is
  /// its label, empty where it has none.
  virtual void add(const Metric& metric, std::string_view service, double amount) noexcept = 0;
  /// Sets a gauge; NaN: it has no value any more, as that of a service which is followed no longer. By default these
  /// are not kept.
  virtual void set(const Metric& gauge, std::string_view service, double value) noexcept {
    static_cast<void>(gauge), static_cast<void>(service), static_cast<void>(value);
  }
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
  bool measures() const noexcept { return metrics_ != nullptr; }
  void count(const Metric& counter, std::string_view service = {}, double amount = 1) const noexcept {
    if (metrics_) metrics_->add(counter, service, amount);
  }
  void set(const Metric& gauge, std::string_view service, double value) const noexcept {
    if (metrics_) metrics_->set(gauge, service, value);
  }

 private:
  std::shared_ptr<Logger> logger_;
  std::shared_ptr<Metrics> metrics_;
};

}  // namespace registry
