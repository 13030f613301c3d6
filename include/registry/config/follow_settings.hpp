// A configuration file that is followed: each valid version of it, as it changes. Needs yaml-cpp: link registry::yaml.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/posix/stream_descriptor.hpp>
#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <exception>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "registry/async/aborted.hpp"
#include "registry/async/generator.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/config/path_watch.hpp"
#include "registry/config/settings.hpp"
#include "registry/config/yaml.hpp"
#include "registry/model/errors.hpp"
#include "registry/observe/metric.hpp"
#include "registry/observe/observer.hpp"

namespace registry {

namespace detail {

/// The settings on their way to their one consumer: the newest counts. What it has already is not handed out again.
class SettingsSource final : public GeneratorSource<Settings>,
                             public std::enable_shared_from_this<SettingsSource> {
 public:
  SettingsSource(const asio::any_io_executor& executor, const std::string& path, Observer observer)
      : path_(std::filesystem::absolute(path)),  // for good: a daemon may go to another folder
        observer_(std::move(observer)),
        watch_(path_),  // before the file is read: no change falls between
        text_(read_settings_file(path_)),
        newest_(parse_settings(*text_, path_)),
        home_(Home::strand(executor)),
        tasks_(home_) {}

  // ---- of the consumer; any thread

  void start() override {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      started_ = true;
    }
    const bool posted = home_.post([self = shared_from_this()] { self->tasks_.spawn(follow(self)); });
    if (!posted) close();
  }

  std::optional<Settings> try_next() override {
    const std::lock_guard lock(mutex_);
    if (!fresh_) {
      if (const auto error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
      return std::nullopt;
    }
    fresh_ = false;
    delivered_ = newest_;
    return newest_;
  }

  bool ended() const override {
    const std::lock_guard lock(mutex_);
    return closed_ && !fresh_ && !error_;
  }

  asio::awaitable<void> wait(WaitDeadline deadline) override {
    while (!ready() && WaitDeadline::clock::now() < deadline) co_await changed_.wait_until(deadline);
  }

  void cancel() noexcept override {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      fresh_ = false;
      if (!std::exchange(started_, false)) return;
    }
    changed_.raise();
    home_.post([self = shared_from_this()] { self->tasks_.cancel(); });
  }

 private:
  /// Ends the stream with the coroutine, also when that is destroyed with its context.
  struct Ending {
    explicit Ending(std::shared_ptr<SettingsSource> whose) : source(std::move(whose)) {}
    Ending(const Ending&) = delete;
    Ending& operator=(const Ending&) = delete;
    ~Ending() { source->close(); }
    const std::shared_ptr<SettingsSource> source;
  };

  static asio::awaitable<void> follow(std::shared_ptr<SettingsSource> self) {
    const Ending ending(self);
    try {
      asio::posix::stream_descriptor events(co_await asio::this_coro::executor);
      events.assign(self->watch_.descriptor());
      self->watch_.disown();
      while (true) {
        std::error_code error;
        co_await events.async_wait(asio::posix::stream_descriptor::wait_read,
                                   asio::redirect_error(asio::use_awaitable, error));
        const auto state = co_await asio::this_coro::cancellation_state;
        if (state.cancelled() != asio::cancellation_type::none) throw_aborted();
        if (error) throw std::system_error(error, "waiting for changes of " + self->path_);
        self->react(self->watch_.drain());
      }
    } catch (...) {
      self->close(std::current_exception());  // after cancel() nobody hears of it
    }
  }

  // ---- on the home

  void react(Stir stir) {
    if (stir == Stir::Nothing) return;
    try {
      watch_.arm();
    } catch (const std::system_error& error) {
      observer_.log(LogLevel::Error, path_ + ": changes may go unnoticed: " + error.what());
    }
    if (stir == Stir::Read) {
      read_again();
    } else if (std::error_code unclear; !std::filesystem::exists(path_, unclear) && !unclear) {
      gone();
    } else if (denied_) {
      read_again();
    }
  }

  void read_again() {
    denied_ = false;
    try {
      std::string text = read_settings_file(path_);
      if (text == text_) return;
      text_ = std::move(text);
      const bool differs = offer(parse_settings(*text_, path_));
      if (differs) observer_.count(metric::configuration_reloads);
      if (std::exchange(troubled_, false) && !differs)
        observer_.log(LogLevel::Info, path_ + ": is as it was");
    } catch (const std::system_error& error) {
      if (error.code() == std::errc::no_such_file_or_directory) return gone();
      denied_ = error.code().category() != registry_category();
      if (denied_) text_.reset();
      keep(LogLevel::Error, denied_ ? error.what() : Problem(error).words);
    }
  }

  void gone() {
    if (!std::exchange(text_, std::nullopt)) return;
    keep(LogLevel::Warning, path_ + ": is gone");
  }

  void keep(LogLevel level, const std::string& why) {
    troubled_ = true;
    if (level == LogLevel::Error) observer_.count(metric::configuration_failures);
    observer_.log(level, why + "; what was read before stays in force");
  }

  /// Whether they are other than the last valid ones.
  bool offer(Settings settings) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_ || settings == newest_) return false;
      newest_ = std::move(settings);
      fresh_ = !delivered_ || *delivered_ != newest_;
    }
    changed_.raise();
    return true;
  }

  void close(std::exception_ptr error = {}) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(closed_, true)) return;
      error_ = std::move(error);
    }
    changed_.raise();
  }

  bool ready() const {
    const std::lock_guard lock(mutex_);
    return closed_ || fresh_;
  }

  const std::string path_;
  const Observer observer_;
  PathWatch watch_;                  // on the home from start() on, as the next four
  std::optional<std::string> text_;  // of the file when it was last read; none if it could not be
  bool denied_ = false;              // it is there, but not for us
  bool troubled_ = false;            // what was yielded is older than the file

  mutable std::mutex mutex_;
  Settings newest_;
  std::optional<Settings> delivered_;
  bool fresh_ = true, started_ = false, closed_ = false;
  std::exception_ptr error_;
  Signal changed_;

  const Home home_;
  TaskScope tasks_;
};

}  // namespace detail

/// Follows a configuration file: yields what it says now, then each new valid version once the file was changed; the newest
/// if the consumer was slow. What says the same yields nothing. A broken version yields nothing and logs why, with file,
/// line and key, at LogLevel::Error; a file that is gone logs a warning; what was yielded before stays in force until the
/// file is valid again.
///
/// It reads the file when a writer has closed it, and when a name on its path was moved or linked into place; a rename over
/// the file is the one way in which no reader ever sees half of it. Changes that another machine makes on a network file
/// system are not seen.
///
/// Throws at once, as load_settings does, when the file cannot be read or is not valid: a server must not start so; and
/// std::system_error when the system grants no inotify. Reading blocks the executor for the time of reading one small file.
///
/// From the first use to the end of the generator the context has work. The generator and the context may be destroyed in
/// any order, on any thread.
///
/// Cancellation of `next()` loses nothing; destroying the generator ends the following. Errors: `next()`
/// throws, once, what the system says when the file can be watched no longer, and the stream has ended.
/// Thread safety: as with any Generator; the Observer is told on `executor`.
inline Generator<Settings> follow_settings(const asio::any_io_executor& executor, const std::string& path,
                                           Observer observer = Observer()) {
  return Generator<Settings>(std::make_shared<detail::SettingsSource>(executor, path, std::move(observer)));
}

}  // namespace registry
