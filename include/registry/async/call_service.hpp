// Who owns a gRPC call while gRPC holds on to it. A gRPC thread must neither free a call (the last reference
// to a channel would make it wait for itself) nor outlive the call's context, so calls belong to a service of
// that context; when the context is destroyed the service cancels them and waits until gRPC has let go.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/execution/context.hpp>
#include <asio/execution_context.hpp>
#include <asio/post.hpp>
#include <asio/query.hpp>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "registry/async/signal.hpp"

namespace registry::detail {

class CallService;

/// One call in the hands of gRPC.
class Call {
 public:
  virtual ~Call() = default;

  /// Makes gRPC finish the call soon. Any thread, any time, also after it has finished.
  virtual void cancel() noexcept = 0;

 private:
  friend class CallService;
  CallService* service_ = nullptr;
  asio::any_io_executor executor_;  // where it is freed if its coroutine no longer wants it
  bool finished_ = false;
  bool abandoned_ = false;
};

class CallService : public asio::execution_context::service {
 public:
  static inline asio::execution_context::id id;

  explicit CallService(asio::execution_context& context) : asio::execution_context::service(context) {}

  /// Before gRPC sees the call.
  static void begin(std::shared_ptr<Call> call, const asio::any_io_executor& executor) {
    auto& service = asio::use_service<CallService>(asio::query(executor, asio::execution::context));
    call->service_ = &service;
    call->executor_ = executor;
    const std::lock_guard lock(service.mutex_);
    Call* const key = call.get();
    service.calls_.emplace(key, std::move(call));
  }

  /// gRPC's last word on the call, on one of its threads: nothing of gRPC's touches the call afterwards. It raises under
  /// the lock: otherwise the context could go down in between, and this thread would have to destroy who waited.
  static void finish(Call& call, const Signal& done) noexcept {
    CallService& service = *call.service_;
    const std::lock_guard lock(service.mutex_);
    call.finished_ = true;
    done.raise();
    if (service.down_) {
      service.idle_.notify_all();
    } else if (call.abandoned_) {
      const auto executor = std::exchange(call.executor_, {});
      auto owner = service.calls_.extract(&call);
      asio::post(executor, [owner = std::move(owner)] {});
    }
  }

  /// The coroutine no longer needs the call: it is freed now, or as soon as gRPC has let go of it.
  static void end(Call& call) noexcept {
    CallService& service = *call.service_;
    std::shared_ptr<Call> owner;
    {
      const std::lock_guard lock(service.mutex_);
      if (call.finished_) {
        const auto found = service.calls_.find(&call);
        if (found != service.calls_.end()) {
          owner = std::move(found->second);
          service.calls_.erase(found);
        }
        call.executor_ = {};  // whoever still holds the call may outlive the context
        return;
      }
      call.abandoned_ = true;
    }
    call.cancel();
  }

 private:
  using Calls = std::unordered_map<Call*, std::shared_ptr<Call>>;

  void shutdown() override {
    std::unique_lock lock(mutex_);
    down_ = true;
    const Calls held = calls_;
    lock.unlock();
    for (const auto& [address, call] : held) call->cancel();
    lock.lock();
    idle_.wait(lock, [&held] {
      for (const auto& [address, call] : held) {
        if (!call->finished_) return false;
      }
      return true;
    });
    Calls freed;
    freed.swap(calls_);
    for (const auto& [address, call] : freed) call->executor_ = {};
    lock.unlock();
  }

  std::mutex mutex_;
  std::condition_variable idle_;
  bool down_ = false;
  Calls calls_;
};

/// Gives a call back when the coroutine that made it ends, however it ends.
class CallGuard {
 public:
  explicit CallGuard(std::shared_ptr<Call> call) : call_(std::move(call)) {}
  CallGuard(const CallGuard&) = delete;
  CallGuard& operator=(const CallGuard&) = delete;
  ~CallGuard() { CallService::end(*call_); }

 private:
  std::shared_ptr<Call> call_;
};

}  // namespace registry::detail
