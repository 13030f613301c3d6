// How a call to etcd is carried through: choose a member, have a token, try, judge, and try elsewhere while
// that is safe and there is time.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <algorithm>
#include <asio/awaitable.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "registry/async/sleep.hpp"
#include "registry/async/unary_call.hpp"
#include "registry/etcd/connection.hpp"
#include "registry/policy/backoff.hpp"
#include "registry/policy/etcd_status.hpp"

namespace registry::etcd::detail {

using registry::detail::fail;
using registry::detail::quote;
using registry::detail::run_unary;
using registry::detail::UnaryCall;

/// What a repeated call does. Only calls that are safe to repeat are repeated when it is unknown whether they
/// took effect.
enum class Effect {
  Repeatable,  ///< reads, and writes that are idempotent by their form
  Once,        ///< writes: in doubt, they end with outcome_unknown
};

/// Why a try failed.
struct Failure {
  EtcdVerdict verdict;
  std::string text;

  Failure() {}
  Failure(const Connection& connection, const grpc::Status& status)
      : verdict(judge_etcd(static_cast<RpcCode>(status.error_code()), status.error_message(),
                           connection.logs_in())),
        text(status.error_message()) {
    if (verdict.code == errc::authentication_failed && !connection.logs_in())
      text += " (etcd asks for a user: set username and password)";
  }
};

/// Where and with what one try is made.
struct Try {
  MemberPtr member;
  std::string token;
  std::chrono::steady_clock::time_point deadline;

  Try() {}

  /// Metadata and deadline of a call. `hasleader`: a member that lost its leader refuses at once instead of
  /// hanging.
  void prepare(grpc::ClientContext& context) const {
    prepare_unbounded(context);
    const auto left = deadline - std::chrono::steady_clock::now();
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::system_clock::duration>(left));
  }
  void prepare_unbounded(grpc::ClientContext& context) const {
    context.AddMetadata("hasleader", "true");
    if (!token.empty()) context.AddMetadata("token", token);
  }
};

/// Ends our turn as the one who authenticates, also when the coroutine is destroyed in between.
class AuthenticationTurn {
 public:
  AuthenticationTurn(std::shared_ptr<Connection> connection, MemberPtr member)
      : connection_(std::move(connection)), member_(std::move(member)) {}
  AuthenticationTurn(const AuthenticationTurn&) = delete;
  AuthenticationTurn& operator=(const AuthenticationTurn&) = delete;
  ~AuthenticationTurn() {
    const auto waiting = connection_->with_member(*member_, [](Member& member) {
      member.authenticating = false;
      return std::exchange(member.waiting_for_token, {});
    });
    for (const auto& signal : waiting) signal.raise();
  }

 private:
  std::shared_ptr<Connection> connection_;
  MemberPtr member_;
};

/// Sees to it that the member has a token if one is needed. One Authenticate at a time for each member: it
/// costs the server 50 ms of hashing.
inline asio::awaitable<std::optional<Failure>> authenticate(std::shared_ptr<Connection> connection,
                                                            MemberPtr member,
                                                            std::chrono::steady_clock::time_point deadline) {
  using Clock = Connection::Clock;
  if (connection->config.username.empty()) co_return std::nullopt;
  enum class Turn { Done, Refused, Ours, Theirs };
  for (;;) {
    Signal turn_over;
    std::optional<Failure> refusal;
    const Turn turn = connection->with_member(*member, [&](Member& at) {
      if (at.needs_no_token || !at.token.empty()) return Turn::Done;
      if (at.refused_until > Clock::now()) {
        refusal.emplace();
        refusal->text = at.refusal;
        refusal->verdict.code = errc::authentication_failed;
        return Turn::Refused;
      }
      if (std::exchange(at.authenticating, true)) {
        at.waiting_for_token.push_back(turn_over);
        return Turn::Theirs;
      }
      return Turn::Ours;
    });
    if (turn == Turn::Done || turn == Turn::Refused) co_return refusal;
    if (turn == Turn::Ours) break;
    co_await turn_over.wait_until(deadline);
    if (Clock::now() >= deadline)
      co_return Failure(*connection, grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED, "authenticating"));
  }

  const AuthenticationTurn our_turn(connection, member);
  auto request = std::make_shared<pb::AuthenticateRequest>();
  request->set_name(connection->config.username);
  request->set_password(connection->config.password);
  auto call = std::make_shared<UnaryCall<pb::AuthenticateRequest, pb::AuthenticateResponse>>();
  call->request = std::move(request);
  Try attempt;
  attempt.deadline = deadline;
  attempt.prepare(call->context);
  const InFlight in_flight(connection, call);
  auto* const stub = member->auth.get();
  const auto start = [stub](auto& running, auto done) {
    stub->async()->Authenticate(&running.context, running.request.get(), &running.response, std::move(done));
  };
  co_await run_unary(call, start);
  if (call->status.ok()) {
    connection->with_member(*member, [&](Member& at) { at.token = call->response.token(); });
    co_return std::nullopt;
  }
  Failure failure(*connection, call->status);
  if (failure.verdict.code == errc::authentication_disabled) {
    connection->with_member(*member, [](Member& at) { at.needs_no_token = true; });
    co_return std::nullopt;
  }
  if (failure.verdict.code == errc::authentication_failed) {
    connection->with_member(*member, [&](Member& at) {
      at.refused_until = Clock::now() + std::chrono::seconds(1);
      at.refusal = failure.text;
    });
  }
  co_return failure;
}

/// The token did not do: the next try gets a new one, unless somebody renewed it meanwhile.
inline void forget_token(Connection& connection, Member& member, const std::string& used) {
  connection.with_member(member, [&](Member& at) {
    at.needs_no_token = false;
    if (at.token == used) at.token.clear();
  });
}

/// Notes what a failure says about the member and its token.
inline void note_failure(Connection& connection, const Try& attempt, const Failure& failure) {
  if (failure.verdict.endpoint_bad) {
    connection.failed(*attempt.member);
    connection.observer.count(metric::endpoint_failures);
    if (connection.observer.logs() && !connection.closed()) {
      connection.observer.log(LogLevel::Info, "etcd " + attempt.member->address +
                                                  " is avoided for a while: " + quote(failure.text, 300));
    }
  }
  if (failure.verdict.code == errc::invalid_token) forget_token(connection, *attempt.member, attempt.token);
}

[[noreturn]] inline void give_up(Connection& connection, const char* what, const Member& member,
                                 const Failure& failure, const Failure* before, Effect effect) {
  if (connection.closed()) fail(errc::closed, "the etcd connector is closed");
  const bool in_doubt = effect == Effect::Once && failure.verdict.may_be_applied;
  // The end of the time says little: what a try on the way has met is why.
  const bool out_of_time = before != nullptr && failure.verdict.code == errc::timed_out;
  const Failure& why = out_of_time ? *before : failure;
  // A peer that speaks TLS to one that does not just hangs up: then it helps to see what was tried.
  const char* const how = why.verdict.code != errc::unavailable ? ""
                          : connection.config.tls               ? " (TLS)"
                                                                : " (no TLS)";
  fail(in_doubt ? errc::outcome_unknown : why.verdict.code,
       "etcd " + member.address + how + ": " + what + ": " + quote(why.text, 300) +
           (out_of_time ? ", then no answer in time" : ""));
}

/// Has the cluster asked for its members; see member_sync.hpp.
void begin_sync(const std::shared_ptr<Connection>& connection);

/// Runs `attempt(try)` until it succeeds. `attempt` returns an awaitable grpc::Status and keeps its own
/// result. Throws the last failure when it is final or the time is over.
template <class Attempt>
asio::awaitable<void> persist(std::shared_ptr<Connection> connection, const char* what, Effect effect,
                              std::chrono::milliseconds timeout, Attempt attempt) {
  using Clock = Connection::Clock;
  const auto begin = Clock::now();
  if (connection->claims_sync(begin)) begin_sync(connection);
  const auto deadline = begin + timeout;
  // With other members to turn to, a silent one gets half of the time.
  const auto patience = connection->size() > 1 && effect == Effect::Repeatable ? timeout / 2 : timeout;
  Backoff pause(std::chrono::milliseconds(25), std::chrono::milliseconds(400));
  std::map<MemberPtr, Failure> before;  // of each member, what says more than that the time was over
  for (std::size_t tries = 1;; ++tries) {
    if (connection->closed()) fail(errc::closed, "the etcd connector is closed");
    Try now;
    now.member = connection->pick();
    now.deadline = std::min(deadline, Clock::now() + patience);

    std::optional<Failure> failure = co_await authenticate(connection, now.member, now.deadline);
    if (!failure) {
      now.token = connection->with_member(*now.member, [](Member& at) { return at.token; });
      const grpc::Status status = co_await attempt(now);
      if (status.ok()) {
        connection->succeeded(*now.member);
        co_return;
      }
      failure.emplace(*connection, status);
    } else {
      failure->verdict.may_be_applied = false;  // the call itself was not sent
    }
    note_failure(*connection, now, *failure);

    const bool safe = effect == Effect::Repeatable || !failure->verdict.may_be_applied;
    const bool once_around = tries % connection->size() == 0;
    const auto rest = once_around ? pause.next(connection->draw()) : std::chrono::milliseconds(0);
    if (connection->closed() || !failure->verdict.retry || !safe || Clock::now() + rest >= deadline) {
      const auto told = before.find(now.member);
      give_up(*connection, what, *now.member, *failure, told == before.end() ? nullptr : &told->second,
              effect);
    }
    if (failure->verdict.code != errc::timed_out) before[now.member] = *std::move(failure);
    if (rest.count() > 0) co_await registry::detail::sleep_for(rest);
  }
}

/// Tries a unary method. `start(member, call, done)` hands the call to the member's stub.
template <class Request, class Response, class Start>
class UnaryAttempt {
 public:
  UnaryAttempt(std::shared_ptr<Connection> connection, std::shared_ptr<const Request> request,
               std::shared_ptr<Response> response, Start start)
      : connection_(std::move(connection)),
        request_(std::move(request)),
        response_(std::move(response)),
        start_(std::move(start)) {}

  asio::awaitable<grpc::Status> operator()(Try now) const {
    return run(connection_, request_, response_, start_, std::move(now));
  }

 private:
  static asio::awaitable<grpc::Status> run(std::shared_ptr<Connection> connection,
                                           std::shared_ptr<const Request> request,
                                           std::shared_ptr<Response> response, Start start, Try now) {
    auto call = std::make_shared<UnaryCall<Request, Response>>();
    call->request = std::move(request);
    now.prepare(call->context);
    const InFlight in_flight(connection, call);
    const auto start_there = [member = now.member, start](auto& running, auto done) {
      start(*member, running, std::move(done));
    };
    co_await run_unary(call, start_there);
    if (call->status.ok()) *response = std::move(call->response);
    co_return call->status;
  }

  std::shared_ptr<Connection> connection_;
  std::shared_ptr<const Request> request_;
  std::shared_ptr<Response> response_;
  Start start_;
};

/// A unary call with everything around it.
template <class Response, class Request, class Start>
asio::awaitable<Response> unary(std::shared_ptr<Connection> connection, const char* what, Effect effect,
                                Request request, std::chrono::milliseconds timeout, Start start) {
  auto shared = std::make_shared<const Request>(std::move(request));
  auto response = std::make_shared<Response>();
  UnaryAttempt<Request, Response, Start> attempt(connection, std::move(shared), response, std::move(start));
  co_await persist(connection, what, effect, timeout, std::move(attempt));
  co_return std::move(*response);
}

/// The same, within the time that the connection allows for a call.
template <class Response, class Request, class Start>
asio::awaitable<Response> unary(std::shared_ptr<Connection> connection, const char* what, Effect effect,
                                Request request, Start start) {
  const auto timeout = connection->config.request_timeout;
  return unary<Response>(std::move(connection), what, effect, std::move(request), timeout, std::move(start));
}

}  // namespace registry::etcd::detail
