// The events of one watcher, from the strand that follows the service to the consumer's coroutine.
#pragma once

#include <asio/awaitable.hpp>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "registry/async/generator.hpp"
#include "registry/async/signal.hpp"
#include "registry/policy/event_fold.hpp"

namespace registry::detail {

/// Thread-safe. Its size is bounded by folding, see EventFold.
class EventQueue final : public GeneratorSource<ServiceEvent> {
 public:
  EventQueue(ServiceFilter filter, std::size_t limit) : events_(std::move(filter), limit) {}

  /// Set before the queue is handed out. `start` runs at the consumer's first call, `gone` when the consumer
  /// is gone; both on its thread.
  void on_start(std::function<void()> start) { start_ = std::move(start); }
  void on_gone(std::function<void()> gone) { gone_ = std::move(gone); }

  void push(const std::vector<InstanceChange>& changes) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      for (const InstanceChange& change : changes) events_.push(change);
      if (events_.empty()) return;
    }
    filled_.raise();
  }

  /// Ends the stream behind the events that are there.
  void close() noexcept {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    filled_.raise();
  }

  bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }

  std::size_t size() const {
    const std::lock_guard lock(mutex_);
    return events_.size();
  }

  void start() override {
    if (const auto action = std::exchange(start_, nullptr)) action();
  }

  std::optional<ServiceEvent> try_next() override {
    std::optional<SharedEvent> shared;
    {
      const std::lock_guard lock(mutex_);
      shared = events_.pop();
    }
    std::optional<ServiceEvent> event;
    if (shared) event.emplace(shared->type, *shared->instance, shared->revision, shared->resynced);
    return event;
  }

  bool ended() const override {
    const std::lock_guard lock(mutex_);
    return closed_ && events_.empty();
  }

  asio::awaitable<void> wait(WaitDeadline deadline) override {
    while (!ready() && WaitDeadline::clock::now() < deadline) co_await filled_.wait_until(deadline);
  }

  void cancel() noexcept override {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
      events_.clear();
    }
    filled_.raise();
    if (const auto action = std::exchange(gone_, nullptr)) action();
  }

 private:
  bool ready() const {
    const std::lock_guard lock(mutex_);
    return closed_ || !events_.empty();
  }

  mutable std::mutex mutex_;
  EventFold events_;
  bool closed_ = false;
  Signal filled_;
  std::function<void()> start_, gone_;
};

}  // namespace registry::detail
