// The plain etcd calls, one function each.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "registry/async/bidi_call.hpp"
#include "registry/etcd/retry.hpp"

namespace registry::etcd::detail {

using ConnectionPtr = std::shared_ptr<Connection>;

/// Until a member has answered, and let us in.
inline asio::awaitable<void> connect(ConnectionPtr connection) {
  pb::RangeRequest request;
  request.set_key("registry/connect");
  request.set_count_only(true);
  request.set_serializable(true);  // asks this member alone: a cluster without a quorum can still be listed
  try {
    auto attempt = unary<pb::RangeResponse>(
        connection, "connect", Effect::Repeatable, std::move(request), connection->config.dial_timeout,
        [](Member& at, auto& call, auto done) {
          at.kv->async()->Range(&call.context, call.request.get(), &call.response, std::move(done));
        });
    co_await std::move(attempt);
  } catch (const std::system_error& error) {
    // A user who may not read this key has been let in all the same.
    if (error.code() != errc::permission_denied) throw;
  }
}

inline asio::awaitable<pb::RangeResponse> range(ConnectionPtr connection, pb::RangeRequest request) {
  return unary<pb::RangeResponse>(std::move(connection), "Range", Effect::Repeatable, std::move(request),
                                  [](Member& at, auto& call, auto done) {
                                    at.kv->async()->Range(&call.context, call.request.get(), &call.response,
                                                          std::move(done));
                                  });
}

inline asio::awaitable<pb::PutResponse> put(ConnectionPtr connection, pb::PutRequest request) {
  return unary<pb::PutResponse>(
      std::move(connection), "Put", Effect::Once, std::move(request), [](Member& at, auto& call, auto done) {
        at.kv->async()->Put(&call.context, call.request.get(), &call.response, std::move(done));
      });
}

inline asio::awaitable<pb::DeleteRangeResponse> delete_range(ConnectionPtr connection,
                                                             pb::DeleteRangeRequest request) {
  return unary<pb::DeleteRangeResponse>(std::move(connection), "DeleteRange", Effect::Once,
                                        std::move(request), [](Member& at, auto& call, auto done) {
                                          at.kv->async()->DeleteRange(&call.context, call.request.get(),
                                                                      &call.response, std::move(done));
                                        });
}

inline asio::awaitable<pb::TxnResponse> txn(ConnectionPtr connection, pb::TxnRequest request,
                                            std::chrono::milliseconds timeout) {
  return unary<pb::TxnResponse>(std::move(connection), "Txn", Effect::Once, std::move(request), timeout,
                                [](Member& at, auto& call, auto done) {
                                  at.kv->async()->Txn(&call.context, call.request.get(), &call.response,
                                                      std::move(done));
                                });
}

inline asio::awaitable<pb::TxnResponse> txn(ConnectionPtr connection, pb::TxnRequest request) {
  const auto timeout = connection->config.request_timeout;
  return txn(std::move(connection), std::move(request), timeout);
}

/// With an id of the caller's choice it cannot be granted twice, but a repeat would say lease_exists of the
/// first: in doubt.
inline asio::awaitable<pb::LeaseGrantResponse> lease_grant(ConnectionPtr connection,
                                                           pb::LeaseGrantRequest request) {
  return unary<pb::LeaseGrantResponse>(std::move(connection), "LeaseGrant", Effect::Once, std::move(request),
                                       [](Member& at, auto& call, auto done) {
                                         at.lease->async()->LeaseGrant(&call.context, call.request.get(),
                                                                       &call.response, std::move(done));
                                       });
}

inline asio::awaitable<pb::LeaseRevokeResponse> lease_revoke(ConnectionPtr connection,
                                                             pb::LeaseRevokeRequest request) {
  return unary<pb::LeaseRevokeResponse>(std::move(connection), "LeaseRevoke", Effect::Once,
                                        std::move(request), [](Member& at, auto& call, auto done) {
                                          at.lease->async()->LeaseRevoke(&call.context, call.request.get(),
                                                                         &call.response, std::move(done));
                                        });
}

inline asio::awaitable<pb::LeaseTimeToLiveResponse> lease_time_to_live(ConnectionPtr connection,
                                                                       pb::LeaseTimeToLiveRequest request) {
  return unary<pb::LeaseTimeToLiveResponse>(std::move(connection), "LeaseTimeToLive", Effect::Repeatable,
                                            std::move(request), [](Member& at, auto& call, auto done) {
                                              at.lease->async()->LeaseTimeToLive(
                                                  &call.context, call.request.get(), &call.response,
                                                  std::move(done));
                                            });
}

inline asio::awaitable<pb::LeaseLeasesResponse> lease_leases(ConnectionPtr connection) {
  return unary<pb::LeaseLeasesResponse>(std::move(connection), "LeaseLeases", Effect::Repeatable,
                                        pb::LeaseLeasesRequest(), [](Member& at, auto& call, auto done) {
                                          at.lease->async()->LeaseLeases(&call.context, call.request.get(),
                                                                         &call.response, std::move(done));
                                        });
}

struct StartMemberList {
  template <class Call, class Done>
  void operator()(Member& at, Call& call, Done done) const {
    at.cluster->async()->MemberList(&call.context, call.request.get(), &call.response, std::move(done));
  }
};

inline asio::awaitable<pb::MemberListResponse> member_list(ConnectionPtr connection) {
  return unary<pb::MemberListResponse>(std::move(connection), "MemberList", Effect::Repeatable,
                                       pb::MemberListRequest(), StartMemberList());
}

inline asio::awaitable<pb::StatusResponse> status(ConnectionPtr connection) {
  return unary<pb::StatusResponse>(std::move(connection), "Status", Effect::Repeatable, pb::StatusRequest(),
                                   [](Member& at, auto& call, auto done) {
                                     at.maintenance->async()->Status(&call.context, call.request.get(),
                                                                     &call.response, std::move(done));
                                   });
}

/// One renewal on a stream of its own: an old token, a lease that the server refuses, or a slow leader then
/// hold up nobody else, and each renewal goes to a member that answers.
class RenewAttempt {
 public:
  using Stream = registry::detail::BidiStream<pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse>;

  RenewAttempt(ConnectionPtr connection, std::int64_t id, std::shared_ptr<std::int64_t> ttl)
      : connection_(std::move(connection)), id_(id), ttl_(std::move(ttl)) {}

  asio::awaitable<grpc::Status> operator()(Try now) const {
    return run(connection_, id_, ttl_, std::move(now));
  }

 private:
  static asio::awaitable<grpc::Status> run(ConnectionPtr connection, std::int64_t id,
                                           std::shared_ptr<std::int64_t> ttl, Try now) {
    auto call = std::make_shared<Stream::Reactor>();
    now.prepare(call->context);
    const InFlight in_flight(connection, call);
    auto* const stub = now.member->lease.get();
    const Stream stream(co_await asio::this_coro::executor, call,
                        [stub](auto& reactor) { stub->async()->LeaseKeepAlive(&reactor.context, &reactor); });
    pb::LeaseKeepAliveRequest request;
    request.set_id(id);
    stream->write(std::move(request));
    const std::optional<pb::LeaseKeepAliveResponse> answer = co_await stream->read();
    if (!answer) {
      const grpc::Status status = stream->status();
      co_return status.ok()
          ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the stream ended without an answer")
          : status;
    }
    if (answer->id() != id)
      co_return grpc::Status(grpc::StatusCode::INTERNAL, "the answer names another lease");
    *ttl = answer->ttl();
    co_return grpc::Status::OK;
  }

  ConnectionPtr connection_;
  std::int64_t id_;
  std::shared_ptr<std::int64_t> ttl_;
};

inline asio::awaitable<std::chrono::seconds> lease_keep_alive(ConnectionPtr connection, std::int64_t id,
                                                              std::chrono::milliseconds timeout) {
  auto ttl = std::make_shared<std::int64_t>(0);
  RenewAttempt attempt(connection, id, ttl);
  co_await persist(connection, "LeaseKeepAlive", Effect::Repeatable, timeout, std::move(attempt));
  co_return std::chrono::seconds(std::max<std::int64_t>(*ttl, 0));
}

}  // namespace registry::etcd::detail
