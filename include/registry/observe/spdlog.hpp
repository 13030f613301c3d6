// Log lines of the library into an spdlog logger. Needs spdlog: link registry::spdlog.
#pragma once

#include <spdlog/logger.h>

#include <memory>
#include <string_view>
#include <utility>

#include "registry/observe/observer.hpp"

namespace registry {

/// Thread-safe if the logger is (spdlog's `_mt` sinks, or an asynchronous logger).
class SpdlogLogger final : public Logger {
 public:
  /// `logger` must not be null. Which levels are written is its own business.
  explicit SpdlogLogger(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {}

  void log(LogLevel level, std::string_view text) noexcept override {
    try {
      logger_->log(level_of(level), spdlog::string_view_t(text.data(), text.size()));
    } catch (...) {
      // spdlog reports its own errors; there is nobody else to tell.
    }
  }

 private:
  static spdlog::level::level_enum level_of(LogLevel level) noexcept {
    switch (level) {
      case LogLevel::Debug: return spdlog::level::debug;
      case LogLevel::Info: return spdlog::level::info;
      case LogLevel::Warning: return spdlog::level::warn;
      case LogLevel::Error: return spdlog::level::err;
    }
    return spdlog::level::info;
  }

  const std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace registry
