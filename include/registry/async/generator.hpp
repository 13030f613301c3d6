// The one kind of stream the library hands out: values that arrive over time, pulled by one consumer.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

namespace registry {

/// Until when to wait; the far future for ever.
using WaitDeadline = std::chrono::steady_clock::time_point;

/// What feeds a Generator: implement it to make generators of your own.
///
/// Thread safety: one consumer, which calls everything here; how values come in, from which thread, is the
/// implementation's business.
template <class T>
class GeneratorSource {
 public:
  virtual ~GeneratorSource() = default;
  /// Called once, before the first value is asked for.
  virtual void start() {}
  /// The next value, if one is there. After the last value an error that ended the stream is thrown, once.
  virtual std::optional<T> try_next() = 0;
  /// Nothing is there and nothing will come.
  virtual bool ended() const = 0;
  /// Until a value is there, the stream has ended, or the time has come. Throws nothing else.
  /// Cancellation: throws `operation_aborted`; nothing is consumed.
  virtual asio::awaitable<void> wait(WaitDeadline deadline) = 0;
  /// The consumer is gone: the stream ends, and a wait that is still under way returns.
  virtual void cancel() noexcept = 0;
};

/// Values over time, for one consumer. Starts at the first call of `next`, `wait` or `try_next`; destroying
/// it cancels what feeds it, and a pending `next` ends empty. Movable, not copyable.
///
/// Thread safety: distinct generators may be used from different threads; one generator from one coroutine at
/// a time.
template <class T>
class Generator {
 public:
  Generator() = default;
  /// What `source` yields. It has this one consumer.
  explicit Generator(std::shared_ptr<GeneratorSource<T>> source) : source_(std::move(source)) {}
  /// Takes the stream over, started or not; `other` has ended then.
  Generator(Generator&& other) noexcept : source_(std::move(other.source_)), started_(other.started_) {}
  /// Cancels what fed this one, and takes the stream of `other` over.
  Generator& operator=(Generator&& other) noexcept {
    if (this != &other) {
      cancel();
      source_ = std::move(other.source_);
      started_ = other.started_;
    }
    return *this;
  }
  ~Generator() { cancel(); }

  /// The next value; empty when the stream has ended. Errors: throws what ended the stream, once; which errors
  /// those may be stands where the generator comes from.
  /// Cancellation: throws `operation_aborted`; no value is lost, the next call continues. But `next() ||
  /// timer` can lose a value that arrives together with the timer: use `wait() || timer`, then `try_next()`.
  asio::awaitable<std::optional<T>> next() {
    start();
    return next_from(source_);
  }

  /// Until `try_next` would return a value, throw, or the stream has ended; or until the time has come. Consumes
  /// nothing, so it throws nothing of the stream's. Cancellation: throws `operation_aborted`; nothing is lost.
  asio::awaitable<void> wait(WaitDeadline deadline = WaitDeadline::max()) {
    start();
    return wait_for(source_, deadline);
  }

  /// The next value if it is already there; empty if not, or if the stream has ended. Throws as next().
  std::optional<T> try_next() {
    start();
    return source_ ? source_->try_next() : std::optional<T>();
  }

  /// True once the stream has ended and every value was taken.
  bool ended() const { return !source_ || source_->ended(); }

 private:
  void start() {
    if (source_ && !std::exchange(started_, true)) source_->start();
  }

  void cancel() noexcept {
    if (source_) source_->cancel();
  }

  static asio::awaitable<std::optional<T>> next_from(std::shared_ptr<GeneratorSource<T>> source) {
    while (source) {
      std::optional<T> value = source->try_next();
      if (value) co_return value;
      if (source->ended()) break;
      co_await source->wait(WaitDeadline::max());
    }
    co_return std::nullopt;
  }

  static asio::awaitable<void> wait_for(std::shared_ptr<GeneratorSource<T>> source, WaitDeadline deadline) {
    if (source) co_await source->wait(deadline);
  }

  std::shared_ptr<GeneratorSource<T>> source_;
  bool started_ = false;
};

}  // namespace registry
