// A bidirectional gRPC call for coroutines: a handle over a call of a generated callback stub.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/status.h>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <cstddef>
#include <deque>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "registry/async/call_service.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"

namespace registry {

namespace detail {

/// The call under a BidiStream. Thread-safe; one reader, any number of writers and of those who wait for the
/// end. gRPC's threads raise signals and nothing else.
template <class Request, class Response>
class StreamCall final : public Call, public grpc::ClientBidiReactor<Request, Response> {
 public:
  /// How many messages are received ahead of the reader; the rest is left to HTTP/2 flow control.
  static constexpr std::size_t read_ahead = 16;

  /// A message on its way out.
  struct Outgoing {
    explicit Outgoing(Request request) : message(std::move(request)) {}
    Request message;
    Signal settled;
    bool done = false, taken = false;  // under the call's mutex
  };
  using OutgoingPtr = std::shared_ptr<Outgoing>;

  explicit StreamCall(std::unique_ptr<grpc::ClientContext> context) : context_(std::move(context)) {}

  grpc::ClientContext& context() noexcept { return *context_; }

  /// After the reactor was bound to a stub method.
  void start() {
    this->AddHold();  // released by stop(): until then reads and writes start outside of reactions, too
    this->StartRead(&incoming_);
    this->StartCall();
  }

  OutgoingPtr push(Request message) {
    auto outgoing = std::make_shared<Outgoing>(std::move(message));
    const std::lock_guard lock(mutex_);
    if (stopped_ || half_closed_) {
      outgoing->done = true;
    } else {
      outgoing_.push_back(outgoing);
      if (outgoing_.size() == 1) this->StartWrite(&outgoing->message);
    }
    return outgoing;
  }

  bool done(const Outgoing& outgoing) const {
    const std::lock_guard lock(mutex_);
    return outgoing.done;
  }

  /// Takes back a message that gRPC does not have yet.
  void withdraw(const OutgoingPtr& outgoing) {
    const std::lock_guard lock(mutex_);
    if (outgoing_.empty() || outgoing_.front() == outgoing) return;
    if (std::erase(outgoing_, outgoing) != 0) outgoing->done = true;
  }

  void half_close() {
    const std::lock_guard lock(mutex_);
    if (std::exchange(half_closed_, true) || stopped_) return;
    if (outgoing_.empty()) this->StartWritesDone();
  }

  std::optional<Response> take() {
    const std::lock_guard lock(mutex_);
    if (inbox_.empty()) return std::nullopt;
    std::optional<Response> message(std::move(inbox_.front()));
    inbox_.pop_front();
    read_on();
    return message;
  }

  /// Nothing more to take.
  bool drained() const {
    const std::lock_guard lock(mutex_);
    return over_ && inbox_.empty();
  }

  /// Drops what is there and what will come.
  void discard() {
    const std::lock_guard lock(mutex_);
    discard_ = true;
    inbox_.clear();
    read_on();
  }

  bool over() const {
    const std::lock_guard lock(mutex_);
    return over_;
  }

  grpc::Status status() const {
    const std::lock_guard lock(mutex_);
    return status_;
  }

  const Signal& arrived() const noexcept { return arrived_; }

  void cancel() noexcept override {
    context_->TryCancel();
    stop();
  }

  /// A wake-up at the end of the call while it exists.
  class AtEnd {
   public:
    explicit AtEnd(std::shared_ptr<StreamCall> call) : call_(std::move(call)) {
      const std::lock_guard lock(call_->mutex_);
      place_ = call_->at_end_.emplace(call_->at_end_.end());
    }
    ~AtEnd() {
      const std::lock_guard lock(call_->mutex_);
      call_->at_end_.erase(place_);
    }
    AtEnd(const AtEnd&) = delete;
    AtEnd& operator=(const AtEnd&) = delete;

    const Signal& signal() const { return *place_; }

   private:
    std::shared_ptr<StreamCall> call_;
    std::list<Signal>::iterator place_;
  };

 private:
  // Under the mutex: gRPC runs no reaction inside of a Start call.
  void read_on() {
    if (std::exchange(paused_, false) && !stopped_) this->StartRead(&incoming_);
  }

  static void settle(Outgoing& outgoing, bool taken) {
    outgoing.done = true;
    outgoing.taken = taken;
    outgoing.settled.raise();
  }

  /// Nothing is started any more. What gRPC already has it still reports.
  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(stopped_, true)) return;
      while (outgoing_.size() > 1) {
        settle(*outgoing_.back(), false);
        outgoing_.pop_back();
      }
    }
    this->RemoveHold();
  }

  void OnReadDone(bool ok) override {
    if (!ok) return stop();
    bool more = false;
    {
      const std::lock_guard lock(mutex_);
      if (!discard_) inbox_.push_back(std::move(incoming_));
      incoming_ = Response();
      more = !stopped_ && inbox_.size() < read_ahead;
      paused_ = !stopped_ && !more;
    }
    arrived_.raise();                       // first: to read on may mean to write, too
    if (more) this->StartRead(&incoming_);  // OnDone does not come before this reaction is over
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    settle(*outgoing_.front(), ok);
    outgoing_.pop_front();
    if (stopped_) return;
    if (!outgoing_.empty()) {
      this->StartWrite(&outgoing_.front()->message);
    } else if (half_closed_) {
      this->StartWritesDone();
    }
  }

  void OnDone(const grpc::Status& status) override {
    {
      const std::lock_guard lock(mutex_);
      status_ = status;
      over_ = true;
      for (const Signal& signal : at_end_) signal.raise();
    }
    CallService::finish(*this, arrived_);
  }

  const std::unique_ptr<grpc::ClientContext> context_;
  mutable std::mutex mutex_;
  std::deque<Response> inbox_;
  std::deque<OutgoingPtr> outgoing_;  // the front one is gRPC's
  std::list<Signal> at_end_;
  Response incoming_;
  grpc::Status status_;
  bool paused_ = false;  // no read is under way
  bool discard_ = false;
  bool half_closed_ = false;
  bool stopped_ = false;
  bool over_ = false;
  Signal arrived_;
};

}  // namespace detail

/// A bidirectional gRPC call whose reads and writes are awaited:
///
///     auto context = std::make_unique<grpc::ClientContext>();   // metadata, deadline
///     auto stub = greeter::Greeter::NewStub(channel);
///     registry::BidiStream<HelloRequest, HelloReply> chat(
///         executor, std::move(context),
///         [&](grpc::ClientContext* context, auto* reactor) { stub->async()->Chat(context, reactor); });
///     co_await chat.write(request);
///     while (auto reply = co_await chat.read()) use(*reply);
///     grpc::Status status = co_await chat.finish();
///
/// A handle: movable, not copyable. Destroying it cancels the call and waits for nothing; what is pending then
/// ends as after `cancel()`. An empty one (default-constructed, or moved from) reads nothing, writes nothing
/// and finishes with CANCELLED. The stub may go before the call, the execution context too: that ends the call.
///
/// Thread safety: every member may be called from any thread, several at once, with one `read()` at a time; but do
/// not destroy the handle on one of gRPC's own threads. Awaitables resume on the caller's executor.
///
/// Errors: nothing is thrown but `operation_aborted`; how the call ended, `finish()` says.
///
/// Cancellation: an awaitable that is cancelled throws `operation_aborted` and leaves the call as it is.
template <class Request, class Response>
class BidiStream {
 public:
  /// What is written.
  using request_type = Request;
  /// What is read.
  using response_type = Response;

  BidiStream() {}

  /// Starts the call. `bind(context, reactor)` hands both to a stub's callback method, at once and on this
  /// thread. The call belongs to the executor's context: destroying that cancels it. A failure to connect is
  /// not reported here but ends the stream.
  template <class Bind>
  BidiStream(const asio::any_io_executor& executor, std::unique_ptr<grpc::ClientContext> context, Bind bind)
      : home_(executor), call_(std::make_shared<Call>(std::move(context))) {
    grpc::ClientBidiReactor<Request, Response>* const reactor = call_.get();
    bind(&call_->context(), reactor);
    detail::CallService::begin(call_, executor);
    call_->start();
  }

  ~BidiStream() { release(); }
  /// The call goes over; `other` is empty then.
  BidiStream(BidiStream&& other) noexcept
      : home_(std::move(other.home_)), call_(std::exchange(other.call_, nullptr)) {}
  /// Swaps: the call that was here goes on in `other`.
  BidiStream& operator=(BidiStream&& other) noexcept {
    std::swap(home_, other.home_);
    std::swap(call_, other.call_);
    return *this;
  }

  /// Whether there is a call, ended or not.
  explicit operator bool() const noexcept { return call_ != nullptr; }

  /// The next message; empty when the stream has ended, and `finish()` tells how. Up to 16 messages are
  /// received ahead, then the server is slowed down. Cancelled, it loses no message; but `read() || timer` can
  /// lose one that arrives together with the timer.
  asio::awaitable<std::optional<Response>> read() { return read_from(call_); }

  /// Sends a message: true when gRPC has taken it, which waits while the server is slow; false when the stream
  /// has ended or was half-closed. True does not mean that the server got it. Messages go out in the order in
  /// which the writes began. Cancelled, the message is not sent if an earlier one was still waiting, otherwise
  /// it is.
  asio::awaitable<bool> write(Request request) { return write_to(call_, std::move(request)); }

  /// Half-closes, behind the writes that wait: the server sees the end of the requests.
  void writes_done() {
    if (call_) call_->half_close();
  }

  /// Half-closes, drops every message that was not read, and returns how the stream ended. For a stream that
  /// was read to its end: its status, at once. May be awaited again. Cancellation: throws `operation_aborted`, but
  /// the half-close and the dropping stand.
  asio::awaitable<grpc::Status> finish() { return finish_of(call_); }

  /// Until the stream has ended, reading nothing: messages may still wait to be read. While 16 messages wait
  /// the end is behind them, and is not seen until one is read. Any number of waiters.
  asio::awaitable<void> wait_ended() { return end_of(call_); }

  /// Whether the stream has ended.
  bool ended() const noexcept { return !call_ || call_->over(); }

  /// Ends the stream soon with CANCELLED; messages that are here already may still be read. Idempotent.
  void cancel() noexcept {
    if (call_) call_->cancel();
  }

 private:
  using Call = detail::StreamCall<Request, Response>;
  using CallPtr = std::shared_ptr<Call>;

  static asio::awaitable<std::optional<Response>> read_from(CallPtr call) {
    while (call) {
      std::optional<Response> message = call->take();
      if (message) co_return message;
      if (call->drained()) break;
      co_await call->arrived().wait();
    }
    co_return std::nullopt;
  }

  /// Takes a message back when its writer goes away first.
  struct Sending {
    Sending(CallPtr to, Request request) : call(std::move(to)), outgoing(call->push(std::move(request))) {}
    ~Sending() { call->withdraw(outgoing); }
    Sending(const Sending&) = delete;
    Sending& operator=(const Sending&) = delete;
    CallPtr call;
    typename Call::OutgoingPtr outgoing;
  };

  static asio::awaitable<bool> write_to(CallPtr call, Request request) {
    if (!call) co_return false;
    const Sending sending(call, std::move(request));
    while (!call->done(*sending.outgoing)) co_await sending.outgoing->settled.wait();
    co_return sending.outgoing->taken;
  }

  static asio::awaitable<grpc::Status> finish_of(CallPtr call) {
    if (!call) co_return grpc::Status(grpc::StatusCode::CANCELLED, "an empty stream");
    call->half_close();
    call->discard();
    co_await end_of(call);
    co_return call->status();
  }

  static asio::awaitable<void> end_of(CallPtr call) {
    if (!call) co_return;
    const typename Call::AtEnd end(call);
    while (!call->over()) co_await end.signal().wait();
  }

  // The call's owner is the service of its context. If the context is gone the service has let go of it.
  void release() noexcept {
    if (!call_) return;
    call_->cancel();
    home_.post([call = std::move(call_)] { detail::CallService::end(*call); });
  }

  detail::Home home_;
  CallPtr call_;
};

}  // namespace registry
