// The connection to an etcd cluster, as an application owns it.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "registry/async/generator.hpp"
#include "registry/etcd/config.hpp"
#include "registry/etcd/messages.hpp"
#include "registry/observe/observer.hpp"
#include "registry/store/store.hpp"

/// The etcd v3 client: the Connector, its settings, and the plain etcd calls.
namespace registry::etcd {

namespace detail {
class Connection;
using ConnectionPtr = std::shared_ptr<Connection>;
}  // namespace detail

/// A Store on etcd 3.4 or newer. Connects by itself when it is first used; `connect()` only says early
/// whether it works. It runs on `executor`, which must be running for anything to happen.
///
/// Thread safety: all members may be called from any thread; awaitables resume on the caller's executor.
///
/// Errors: std::system_error with registry::errc and a text that names the endpoint and the call. Writes whose outcome is
/// not known throw `outcome_unknown`; they are never repeated by the Connector. Everything else is repeated within
/// `request_timeout`, on the other endpoints first. After close(), and after the Connector is gone: `closed`.
///
/// Cancellation: throws `operation_aborted`; a cancelled write may have been applied.
///
/// Destroying it cancels what is in flight and waits for nothing.
class Connector : public Store {
 public:
  /// Throws `invalid_argument` for a bad setting, naming it, and `tls_failed` for a file that cannot be read.
  explicit Connector(const asio::any_io_executor& executor, ConnectorConfig config = ConnectorConfig(),
                     Observer observer = Observer());

  /// Returns once a member has answered us (and accepted user and password, if there are any). Throws what
  /// went wrong last when none has within `dial_timeout`; a wrong password at once.
  /// Cancellation: throws `operation_aborted`; the Connector can be used all the same.
  asio::awaitable<void> connect();

  /// Ends everything in flight with `closed`, and waits until it has ended. Idempotent.
  /// Throws no error of the store. Cancellation: throws `operation_aborted`; everything ends all the
  /// same.
  asio::awaitable<void> close();

  // The plain etcd calls, for keys of your own. Messages are etcd's, in package registry.etcdpb.

  /// Reads keys. Repeated within `request_timeout` when it fails.
  asio::awaitable<pb::RangeResponse> range(pb::RangeRequest request);
  /// Writes a key, whatever is there. Sent once: throws `outcome_unknown` when it may have been applied.
  asio::awaitable<pb::PutResponse> put(pb::PutRequest request);
  /// Deletes keys. Sent once: throws `outcome_unknown` when it may have been applied.
  asio::awaitable<pb::DeleteRangeResponse> delete_range(pb::DeleteRangeRequest request);
  /// A transaction: compares, then one of two lists of operations. Sent once: throws `outcome_unknown`
  /// when it may have been applied.
  asio::awaitable<pb::TxnResponse> txn(pb::TxnRequest request);
  /// Grants a lease; the TTL in seconds, as granted, is in the answer. Throws `lease_exists` for an id
  /// that is taken. Sent once: throws `outcome_unknown` when it may have been applied.
  asio::awaitable<pb::LeaseGrantResponse> lease_grant(pb::LeaseGrantRequest request);
  /// Ends a lease and deletes its keys. Throws `lease_lost` when it is gone already. Sent once: throws
  /// `outcome_unknown` when it may have been applied.
  asio::awaitable<pb::LeaseRevokeResponse> lease_revoke(pb::LeaseRevokeRequest request);
  /// Renews a lease, once; its TTL from now on, zero if it is gone.
  asio::awaitable<std::chrono::seconds> lease_keep_alive(std::int64_t id);
  /// How many seconds a lease has left, and its keys if asked for; a TTL of -1: it is gone.
  asio::awaitable<pb::LeaseTimeToLiveResponse> lease_time_to_live(pb::LeaseTimeToLiveRequest request);
  /// All leases of the cluster.
  asio::awaitable<pb::LeaseLeasesResponse> lease_leases();
  /// The members of the cluster, as the endpoint in use knows them.
  asio::awaitable<pb::MemberListResponse> member_list();
  /// Version, size and leader, of the endpoint in use. A user without the root role may be refused.
  asio::awaitable<pb::StatusResponse> status();
  /// The changes of a range from a revision on; see StoreBackend::watch. Throws `invalid_argument` for `from` below 1.
  /// Cancellation: destroying the generator ends the watch.
  Generator<Batch> watch(KeyRange range, std::int64_t from) {
    return backend()->watch(std::move(range), from);
  }

 private:
  explicit Connector(detail::ConnectionPtr connection);

  detail::ConnectionPtr connection_;
};

}  // namespace registry::etcd

#ifndef REGISTRY_COMPILED
#include "registry/etcd/connector_impl.hpp"
#endif
