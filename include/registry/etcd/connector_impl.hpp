// The definitions of connector.hpp.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>

#include "registry/async/on.hpp"
#include "registry/etcd/backend.hpp"
#include "registry/etcd/calls.hpp"
#include "registry/etcd/connector.hpp"
#include "registry/model/decl.hpp"

namespace registry::etcd {

namespace detail {

inline ConnectionPtr make_connection(const asio::any_io_executor& executor, ConnectorConfig config,
                                     Observer observer) {
  validate(config);
  return std::make_shared<Connection>(executor, std::move(config), std::move(observer));
}

inline asio::awaitable<void> close(std::shared_ptr<StoreBackend> backend, ConnectionPtr connection) {
  backend->cancel();
  co_await registry::detail::on(connection->home, connection->tasks.join());
}

}  // namespace detail

REGISTRY_DECL Connector::Connector(const asio::any_io_executor& executor, ConnectorConfig config,
                                   Observer observer)
    : Connector(detail::make_connection(executor, std::move(config), std::move(observer))) {}

REGISTRY_DECL asio::awaitable<void> Connector::connect() { return detail::connect(connection_); }

REGISTRY_DECL asio::awaitable<void> Connector::close() { return detail::close(backend(), connection_); }

REGISTRY_DECL asio::awaitable<std::chrono::seconds> Connector::lease_keep_alive(std::int64_t id) {
  return detail::lease_keep_alive(connection_, id, connection_->config.request_timeout);
}

REGISTRY_DECL Connector::Connector(detail::ConnectionPtr connection)
    : Store(std::make_shared<detail::Backend>(connection)), connection_(std::move(connection)) {}

REGISTRY_DECL asio::awaitable<pb::RangeResponse> Connector::range(pb::RangeRequest request) {
  return detail::range(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::PutResponse> Connector::put(pb::PutRequest request) {
  return detail::put(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::DeleteRangeResponse> Connector::delete_range(
    pb::DeleteRangeRequest request) {
  return detail::delete_range(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::TxnResponse> Connector::txn(pb::TxnRequest request) {
  return detail::txn(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::LeaseGrantResponse> Connector::lease_grant(pb::LeaseGrantRequest request) {
  return detail::lease_grant(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::LeaseRevokeResponse> Connector::lease_revoke(
    pb::LeaseRevokeRequest request) {
  return detail::lease_revoke(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::LeaseTimeToLiveResponse> Connector::lease_time_to_live(
    pb::LeaseTimeToLiveRequest request) {
  return detail::lease_time_to_live(connection_, std::move(request));
}

REGISTRY_DECL asio::awaitable<pb::LeaseLeasesResponse> Connector::lease_leases() {
  return detail::lease_leases(connection_);
}

REGISTRY_DECL asio::awaitable<pb::MemberListResponse> Connector::member_list() {
  return detail::member_list(connection_);
}

REGISTRY_DECL asio::awaitable<pb::StatusResponse> Connector::status() { return detail::status(connection_); }

}  // namespace registry::etcd
