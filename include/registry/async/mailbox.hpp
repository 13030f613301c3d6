// An unbounded queue from any thread to one coroutine; the plain source of a Generator.
#pragma once

#include <asio/awaitable.hpp>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "registry/async/generator.hpp"
#include "registry/async/signal.hpp"

namespace registry::detail {

/// Thread-safe. Producers that could outrun their consumer bound themselves (see `size`).
template <class T>
class Mailbox : public GeneratorSource<T> {
 public:
  /// `on_start` runs at the first use of the Generator, `on_cancel` when its consumer is gone; both on the
  /// consumer's thread. Both are released after their use, so they may own what owns the mailbox.
  explicit Mailbox(std::function<void()> on_start = {}, std::function<void()> on_cancel = {})
      : on_start_(std::move(on_start)), on_cancel_(std::move(on_cancel)) {}

  /// False when the mailbox is closed: the value is dropped.
  bool push(T value) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return false;
      values_.push_back(std::move(value));
    }
    filled_.raise();
    return true;
  }

  /// Ends the stream behind the values that are there, with an error if one is given. The first close counts.
  void close(std::exception_ptr error = {}) noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      closed_ = true;
      error_ = std::move(error);
    }
    filled_.raise();
  }

  std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return values_.size();
  }

  void start() override {
    if (const auto action = std::exchange(on_start_, nullptr)) action();
  }

  std::optional<T> try_next() override {
    const std::lock_guard lock(mutex_);
    if (values_.empty()) {
      if (auto error = std::exchange(error_, nullptr)) std::rethrow_exception(error);
      return std::nullopt;
    }
    std::optional<T> value(std::move(values_.front()));
    values_.pop_front();
    return value;
  }

  bool ended() const override {
    const std::lock_guard lock(mutex_);
    return closed_ && values_.empty() && !error_;
  }

  asio::awaitable<void> wait(WaitDeadline deadline) override {
    while (!ready() && WaitDeadline::clock::now() < deadline) co_await filled_.wait_until(deadline);
  }

  void cancel() noexcept override {
    close();
    on_start_ = nullptr;
    if (const auto action = std::exchange(on_cancel_, nullptr)) action();
  }

 private:
  bool ready() const {
    const std::lock_guard lock(mutex_);
    return closed_ || !values_.empty();
  }

  mutable std::mutex mutex_;
  std::deque<T> values_;
  bool closed_ = false;
  std::exception_ptr error_;
  Signal filled_;
  std::function<void()> on_start_;
  std::function<void()> on_cancel_;
};

}  // namespace registry::detail
