// The connection to an etcd cluster, as an application owns it.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <memory>
#include <utility>

#include "registry/async/on.hpp"
#include "registry/etcd/backend.hpp"
#include "registry/etcd/config.hpp"
#include "registry/observe/observer.hpp"
#include "registry/store/store.hpp"

namespace registry::etcd {

/// A Store on etcd 3.4 or newer. Connects by itself when it is first used; `connect()` only says early
/// whether it works.
///
/// Thread safety: all members may be called from any thread; awaitables resume on the caller's executor.
///
/// Errors: std::system_error with registry::errc and a text that names the endpoint and the call. Writes whose outcome is
/// not known throw `outcome_unknown`; they are never repeated by the Connector. Everything else is repeated within
/// `request_timeout`, on the other endpoints first.
///
/// Cancellation: throws `operation_aborted`; a cancelled write may have been applied.
///
/// Destroying it cancels what is in flight and waits for nothing.
class Connector : public Store {
 public:
  /// Throws `invalid_argument` for a bad setting, naming it, and `tls_failed` for a file that cannot be read.
  explicit Connector(const asio::any_io_executor& executor, ConnectorConfig config = ConnectorConfig(),
                     Observer observer = Observer())
      : Connector(make_connection(executor, std::move(config), std::move(observer))) {}

  /// Returns once a member has answered us (and accepted user and password, if there are any). Throws what
  /// went wrong last when none has within `dial_timeout`; a wrong password at once.
  asio::awaitable<void> connect() { return connect_on(connection_); }

  /// Ends everything in flight with `closed`, and waits until it has ended. Idempotent.
  asio::awaitable<void> close() { return close_on(backend(), connection_); }

  /// The plain etcd calls, for keys of your own. Messages are etcd's, in package registry.etcdpb.
  asio::awaitable<pb::RangeResponse> range(pb::RangeRequest request) {
    return detail::range(connection_, std::move(request));
  }
  asio::awaitable<pb::PutResponse> put(pb::PutRequest request) {
    return detail::put(connection_, std::move(request));
  }
  asio::awaitable<pb::DeleteRangeResponse> delete_range(pb::DeleteRangeRequest request) {
    return detail::delete_range(connection_, std::move(request));
  }
  asio::awaitable<pb::TxnResponse> txn(pb::TxnRequest request) {
    return detail::txn(connection_, std::move(request));
  }
  asio::awaitable<pb::LeaseGrantResponse> lease_grant(pb::LeaseGrantRequest request) {
    return detail::lease_grant(connection_, std::move(request));
  }
  asio::awaitable<pb::LeaseRevokeResponse> lease_revoke(pb::LeaseRevokeRequest request) {
    return detail::lease_revoke(connection_, std::move(request));
  }
  /// Renews once; the TTL from now on, zero if the lease is gone.
  asio::awaitable<std::chrono::seconds> lease_keep_alive(std::int64_t id) {
    return detail::lease_keep_alive(connection_, id, connection_->config.request_timeout);
  }
  asio::awaitable<pb::LeaseTimeToLiveResponse> lease_time_to_live(pb::LeaseTimeToLiveRequest request) {
    return detail::lease_time_to_live(connection_, std::move(request));
  }
  asio::awaitable<pb::LeaseLeasesResponse> lease_leases() { return detail::lease_leases(connection_); }
  asio::awaitable<pb::MemberListResponse> member_list() { return detail::member_list(connection_); }
  /// Of the endpoint in use. A user without the root role may be refused.
  asio::awaitable<pb::StatusResponse> status() { return detail::status(connection_); }
  /// The changes of a range from a revision on; see StoreBackend::watch.
  Generator<Batch> watch(KeyRange range, std::int64_t from) {
    return backend()->watch(std::move(range), from);
  }

 private:
  explicit Connector(detail::ConnectionPtr connection)
      : Store(std::make_shared<detail::Backend>(connection)), connection_(std::move(connection)) {}

  static detail::ConnectionPtr make_connection(const asio::any_io_executor& executor, ConnectorConfig config,
                                               Observer observer) {
    validate(config);
    return std::make_shared<detail::Connection>(executor, std::move(config), std::move(observer));
  }

  static asio::awaitable<void> connect_on(detail::ConnectionPtr connection) {
    pb::RangeRequest request;
    request.set_key("registry/connect");
    request.set_count_only(true);
    request.set_serializable(true);  // asks this member alone: a cluster without a quorum can still be listed
    try {
      auto attempt = detail::unary<pb::RangeResponse>(
          connection, "connect", detail::Effect::Repeatable, std::move(request),
          connection->config.dial_timeout, [](detail::Member& at, auto& call, auto done) {
            at.kv->async()->Range(&call.context, call.request.get(), &call.response, std::move(done));
          });
      co_await std::move(attempt);
    } catch (const std::system_error& error) {
      // A user who may not read this key has been let in all the same.
      if (error.code() != errc::permission_denied) throw;
    }
  }

  static asio::awaitable<void> close_on(std::shared_ptr<StoreBackend> backend,
                                        detail::ConnectionPtr connection) {
    backend->cancel();
    co_await registry::detail::on(connection->home, connection->tasks.join());
  }

  detail::ConnectionPtr connection_;
};

}  // namespace registry::etcd
