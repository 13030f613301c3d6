// One request, one answer: a gRPC call as an awaitable.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <asio/awaitable.hpp>
#include <asio/this_coro.hpp>
#include <functional>
#include <memory>
#include <utility>

#include "registry/async/aborted.hpp"
#include "registry/async/call_service.hpp"
#include "registry/async/signal.hpp"

namespace registry::detail {

/// A unary call with everything gRPC needs for as long as it lasts. Fill in `context` and `request`, then
/// `run_unary`. The request is shared, so that a retry copies nothing.
template <class Request, class Response>
class UnaryCall final : public Call {
 public:
  grpc::ClientContext context;
  std::shared_ptr<const Request> request;
  Response response;
  grpc::Status status;

  void cancel() noexcept override { context.TryCancel(); }

 private:
  template <class Q, class A, class Start>
  friend asio::awaitable<void> run_unary(std::shared_ptr<UnaryCall<Q, A>> call, Start start);

  Signal done_;
};

/// Runs the call and returns when gRPC has let go of it; `call->status` tells how it went. `start(call,
/// on_done)` hands it to a stub's callback method. Cancellation cancels the call and throws
/// `operation_aborted`, unless the answer was there first.
template <class Request, class Response, class Start>
asio::awaitable<void> run_unary(std::shared_ptr<UnaryCall<Request, Response>> call, Start start) {
  CallService::begin(call, co_await asio::this_coro::executor);
  const CallGuard guard(call);
  auto* const raw = call.get();
  std::function<void(grpc::Status)> on_done = [raw](grpc::Status status) {
    raw->status = std::move(status);
    CallService::finish(*raw, raw->done_);
  };
  start(*call, std::move(on_done));

  std::function<void()> cancel = [weak = std::weak_ptr<Call>(call)] {
    if (const auto running = weak.lock()) running->cancel();
  };
  co_await call->done_.wait(std::move(cancel));
  const auto state = co_await asio::this_coro::cancellation_state;
  if (!call->status.ok() && state.cancelled() != asio::cancellation_type::none) {
    throw_aborted();
  }
}

}  // namespace registry::detail
