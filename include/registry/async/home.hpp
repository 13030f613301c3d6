// Where a core lives: the executor its coroutines run on, for as long as the execution context exists.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <memory>
#include <mutex>
#include <utility>

#include "registry/async/wait_service.hpp"

namespace registry::detail {

/// Copies share one slot. Thread-safe. Once the context is destroyed `executor()` is empty and `post` does
/// nothing.
class Home {
 public:
  Home() : slot_(std::make_shared<ExecutorSlot>()) {}
  explicit Home(asio::any_io_executor executor) : Home() {
    slot_->executor = std::move(executor);
    WaitService::of(slot_->executor).keep(slot_);
  }

  /// A home whose work never runs on two threads at once.
  static Home strand(const asio::any_io_executor& executor) { return Home(asio::make_strand(executor)); }

  asio::any_io_executor executor() const {
    const std::lock_guard lock(slot_->mutex);
    return slot_->executor;
  }

  /// Runs `work` there, later. False when the context is gone: `work` is then destroyed here.
  template <class Work>
  bool post(Work work) const {
    const std::lock_guard lock(slot_->mutex);
    if (!slot_->executor) return false;
    asio::post(slot_->executor, std::move(work));
    return true;
  }

  /// Starts a coroutine there, `end` is its completion handler. When the context is gone both are destroyed
  /// here.
  template <class T, class End>
  void spawn(asio::awaitable<T> work, End end) const {
    // The executor is copied here, not in a coroutine frame: a frame of another context may outlive this
    // one's.
    const auto target = executor();
    if (target) asio::co_spawn(target, std::move(work), std::move(end));
  }

 private:
  std::shared_ptr<ExecutorSlot> slot_;
};

}  // namespace registry::detail
