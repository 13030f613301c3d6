// What Asio owns of our waiting: every suspended wait, and every executor a long-lived object keeps, belongs
// to one service of the execution context it runs on. When the context is destroyed the service destroys the
// waits and empties the executors, so objects of ours may outlive their context and be destroyed in any
// order.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/execution/context.hpp>
#include <asio/execution_context.hpp>
#include <asio/query.hpp>
#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "registry/async/aborted.hpp"

namespace registry::detail {

class WaitService;

/// One suspended wait. Owned by the WaitService while linked, by whoever takes it afterwards.
class WaitOp {
 public:
  virtual ~WaitOp() = default;

  /// Moves the handler to its executor; consumes the operation. Never runs the handler here.
  virtual void post(std::exception_ptr result) = 0;

  /// Makes the signal that would wake this operation forget it. Called with no lock held.
  virtual void detach() noexcept = 0;

 private:
  friend class WaitService;
  WaitService* service_ = nullptr;
  WaitOp* previous_ = nullptr;
  WaitOp* next_ = nullptr;
};

/// The executor a core lives on; empty once its context is gone.
struct ExecutorSlot {
  std::mutex mutex;
  asio::any_io_executor executor;
};

class WaitService : public asio::execution_context::service {
 public:
  static inline asio::execution_context::id id;

  explicit WaitService(asio::execution_context& context) : asio::execution_context::service(context) {
    aborted();  // is made before anything can be cancelled
  }

  static WaitService& of(const asio::any_io_executor& executor) {
    return asio::use_service<WaitService>(asio::query(executor, asio::execution::context));
  }

  /// Takes the operation into care. False when the context is going down: the caller destroys it.
  bool link(WaitOp& op) {
    const std::lock_guard lock(mutex_);
    if (down_) return false;
    op.service_ = this;
    op.previous_ = nullptr;
    op.next_ = first_;
    if (first_ != nullptr) first_->previous_ = &op;
    first_ = &op;
    return true;
  }

  /// Takes the operation out of care, for one release(). False when the context took it down first.
  static bool take(WaitOp& op) {
    WaitService& service = *op.service_;
    const std::lock_guard lock(service.mutex_);
    if (service.down_) return false;
    service.unlink(op);
    ++service.releasing_;
    return true;
  }

  /// Hands an operation that was taken to its executor. Call it with no lock held: who is woken would only wait for it.
  static void release(WaitOp& op, std::exception_ptr result) {
    WaitService& service = *op.service_;
    op.post(std::move(result));
    // The last touch: the context may be gone now.
    service.releasing_.fetch_sub(1, std::memory_order_release);
  }

  void keep(const std::shared_ptr<ExecutorSlot>& slot) {
    const std::lock_guard lock(mutex_);
    if (slots_.size() >= prune_at_) {
      std::erase_if(slots_, [](const auto& weak) { return weak.expired(); });
      prune_at_ = 2 * slots_.size() + 16;
    }
    slots_.push_back(slot);
  }

 private:
  void unlink(WaitOp& op) {
    (op.previous_ != nullptr ? op.previous_->next_ : first_) = op.next_;
    if (op.next_ != nullptr) op.next_->previous_ = op.previous_;
  }

  void shutdown() override {
    std::vector<std::weak_ptr<ExecutorSlot>> slots;
    WaitOp* op = nullptr;
    {
      const std::lock_guard lock(mutex_);
      down_ = true;
      slots.swap(slots_);
      op = std::exchange(first_, nullptr);
    }
    // Nobody could tell us safely that the last one is through, and it is in a moment.
    while (releasing_.load(std::memory_order_acquire) != 0) std::this_thread::yield();
    for (const auto& weak : slots) {
      if (const auto slot = weak.lock()) {
        const std::lock_guard lock(slot->mutex);
        slot->executor = asio::any_io_executor();
      }
    }
    // First all are made unreachable, then all are destroyed: a destroyed frame may raise the signal of
    // another.
    for (WaitOp* each = op; each != nullptr; each = each->next_) each->detach();
    while (op != nullptr) {
      const std::unique_ptr<WaitOp> owner(std::exchange(op, op->next_));
    }
  }

  std::mutex mutex_;
  bool down_ = false;
  std::atomic<std::size_t> releasing_{0};  // taken, and not with their executor yet
  WaitOp* first_ = nullptr;
  std::vector<std::weak_ptr<ExecutorSlot>> slots_;
  std::size_t prune_at_ = 16;
};

}  // namespace registry::detail
