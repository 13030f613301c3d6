// A bidirectional gRPC stream for coroutines: one reads, anyone writes.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/status.h>

#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "registry/async/call_service.hpp"
#include "registry/async/signal.hpp"

namespace registry::detail {

/// Reads ahead of its reader by a few messages, then leaves the rest to HTTP/2 flow control. Thread-safe; one
/// reader. Hold it by a BidiStream.
template <class Request, class Response>
class BidiCall final : public Call, public grpc::ClientBidiReactor<Request, Response> {
 public:
  grpc::ClientContext context;

  /// Starts the stream after `context` was bound to a stub method: `stub->async()->Method(&call->context,
  /// call.get())`.
  void start() {
    this->AddHold();  // released by stop(): reads and writes may start outside of reactions until then
    this->StartRead(&incoming_);
    this->StartCall();
  }

  /// Sends a message behind those that wait. Dropped when the stream is ending.
  void write(Request message) {
    const std::lock_guard lock(mutex_);
    if (stopped_) return;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) this->StartWrite(&outgoing_.front());
  }

  /// The next message; empty when the stream has ended and `status()` tells why.
  /// Cancellation: throws `operation_aborted`; the stream goes on.
  asio::awaitable<std::optional<Response>> read() {
    for (;;) {
      std::optional<Response> message = take();
      if (message) co_return message;
      if (over()) co_return std::nullopt;
      co_await arrived_.wait();
    }
  }

  /// Gives a message that was read back: its memory serves another one.
  void give_back(Response message) {
    message.Clear();
    const std::lock_guard lock(mutex_);
    std::swap(spare_, message);
  }

  /// How the stream ended; valid after `read` came back empty.
  grpc::Status status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  void cancel() noexcept override {
    context.TryCancel();
    stop();
  }

 private:
  static constexpr std::size_t read_ahead = 16;

  std::optional<Response> take() {
    const std::lock_guard lock(mutex_);
    if (inbox_.empty()) return std::nullopt;
    std::optional<Response> message(std::move(inbox_.front()));
    inbox_.pop_front();
    if (std::exchange(paused_, false) && !stopped_) this->StartRead(&incoming_);
    return message;
  }

  bool over() const {
    const std::lock_guard lock(mutex_);
    return over_ && inbox_.empty();
  }

  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(stopped_, true)) return;
    }
    this->RemoveHold();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return stop();
    bool more = false;
    {
      const std::lock_guard lock(mutex_);
      inbox_.push_back(std::move(incoming_));
      std::swap(incoming_, spare_);
      more = !stopped_ && inbox_.size() < read_ahead;
      paused_ = !stopped_ && !more;
    }
    arrived_.raise();                       // first: to read on may mean to write, too
    if (more) this->StartRead(&incoming_);  // OnDone does not come before this reaction is over
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    outgoing_.pop_front();
    if (ok && !stopped_ && !outgoing_.empty()) this->StartWrite(&outgoing_.front());
  }

  void OnDone(const grpc::Status& status) override {
    {
      const std::lock_guard lock(mutex_);
      status_ = status;
      over_ = true;
    }
    CallService::finish(*this, arrived_);
  }

  mutable std::mutex mutex_;
  std::deque<Response> inbox_;
  std::deque<Request> outgoing_;  // the front one is being written
  Response incoming_;
  Response spare_;  // empty
  grpc::Status status_;
  bool paused_ = false;
  bool stopped_ = false;
  bool over_ = false;
  Signal arrived_;
};

/// Owns a started stream: cancelled when this goes away, freed when gRPC has let go of it.
template <class Request, class Response>
class BidiStream {
 public:
  using Reactor = BidiCall<Request, Response>;

  /// `bind(call)` hands the call to a stub: `stub->async()->Method(&call.context, &call)`.
  template <class Bind>
  BidiStream(const asio::any_io_executor& executor, std::shared_ptr<Reactor> call, Bind bind)
      : call_(std::move(call)) {
    CallService::begin(call_, executor);
    bind(*call_);
    call_->start();
    guard_.emplace(call_);
  }

  Reactor* operator->() const noexcept { return call_.get(); }
  const std::shared_ptr<Reactor>& call() const noexcept { return call_; }

 private:
  std::shared_ptr<Reactor> call_;
  std::optional<CallGuard> guard_;
};

}  // namespace registry::detail
