// What the library tells the application about itself: log lines and counters, through interfaces the
// application implements. By default nothing is told to anyone.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "registry/observe/metric.hpp"

namespace registry {

/// How much a line matters; docs/observability.md lists what is logged at which level. Debug: nothing so
/// far. Info: what the library coped with. Warning: what someone should know of. Error: what someone must
/// look after.
enum class LogLevel { Debug, Info, Warning, Error };

/// Receives log lines; implement it, or use SpdlogLogger.
///
/// Thread safety: it is called from any thread, several at once, with no lock of the library held.
class Logger {
 public:
  virtual ~Logger() = default;
  /// Must not throw. `text` is one line of UTF-8 without a line end, and valid only during the call. It may quote text from
  /// the network or the store: never use it as a format.
  virtual void log(LogLevel level, std::string_view text) noexcept = 0;
};

/// Receives the metrics that observe/metric.hpp lists; implement it, or use PrometheusMetrics.
///
/// Thread safety: it is called from any thread, several at once, with no lock of the library held.
class Metrics {
 public:
  virtual ~Metrics() = default;
  /// Must not throw. Adds to a counter, or to a gauge that several Registries share (then the amount may be negative). `service` is
  /// its label, empty where it has none.
  virtual void add(const Metric& metric, std::string_view service, double amount) noexcept = 0;
  /// Must not throw. Sets a gauge; NaN: it has no value any more, as that of a service which is followed no longer. By default these
  /// are not kept.
  virtual void set(const Metric& gauge, std::string_view service, double value) noexcept {
    static_cast<void>(gauge), static_cast<void>(service), static_cast<void>(value);
  }
};

/// Where log lines and metrics go. Cheap to copy; without a Logger or a Metrics what would go there is dropped.
///
/// Thread safety: const members may be called from any thread.
class Observer {
 public:
  Observer() {}
  /// Either may be null: nothing is logged then, or nothing measured.
  explicit Observer(std::shared_ptr<Logger> logger, std::shared_ptr<Metrics> metrics = {})
      : logger_(std::move(logger)), metrics_(std::move(metrics)) {}

  /// Whether there is a Logger: whether a text is worth putting together.
  bool logs() const noexcept { return logger_ != nullptr; }
  /// Hands a line to the Logger.
  void log(LogLevel level, std::string_view text) const noexcept {
    if (logger_) logger_->log(level, text);
  }
  /// Whether there is a Metrics.
  bool measures() const noexcept { return metrics_ != nullptr; }
  /// Adds `amount` to a metric, with this label if it has one.
  void count(const Metric& counter, std::string_view service = {}, double amount = 1) const noexcept {
    if (metrics_) metrics_->add(counter, service, amount);
  }
  /// Sets a gauge; NaN: it has no value any more.
  void set(const Metric& gauge, std::string_view service, double value) const noexcept {
    if (metrics_) metrics_->set(gauge, service, value);
  }

 private:
  std::shared_ptr<Logger> logger_;
  std::shared_ptr<Metrics> metrics_;
};

}  // namespace registry
