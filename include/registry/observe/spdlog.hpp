// Log lines of the library into an spdlog logger. Needs spdlog: link registry::spdlog.
#pragma once

#include <spdlog/logger.h>

#include <memory>
#include <string_view>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/observe/observer.hpp"

namespace registry {

/// Log lines of the library into an spdlog logger. What its sinks throw goes to the error handler of the logger:
/// spdlog's own prints it to stderr, at most once a second.
///
/// Thread safety: any thread, if the logger is for that (spdlog's `_mt` sinks, or an asynchronous logger).
class SpdlogLogger final : public Logger {
 public:
  /// Which levels are written is the logger's own business. Throws `invalid_argument` for null.
  explicit SpdlogLogger(std::shared_ptr<spdlog::logger> logger) : logger_(std::move(logger)) {
    if (!logger_) detail::fail(errc::invalid_argument, "logger = null: pass an spdlog::logger");
  }

  /// Writes the line at the level of the same meaning, as text, not as a format.
  void log(LogLevel level, std::string_view text) noexcept override {
    try {
      // The overload that takes text as it is, not as a format.
      logger_->log(spdlog::source_loc(), level_of(level), spdlog::string_view_t(text.data(), text.size()));
    } catch (...) {
      // The error handler of the logger has thrown: there is nobody else to tell.
    }
  }

  /// The level of the same meaning.
  static spdlog::level::level_enum level_of(LogLevel level) noexcept {
    switch (level) {
      case LogLevel::Debug: return spdlog::level::debug;
      case LogLevel::Info: return spdlog::level::info;
      case LogLevel::Warning: return spdlog::level::warn;
      case LogLevel::Error: return spdlog::level::err;
    }
    return spdlog::level::info;
  }

 private:
  const std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace registry
