// etcd as a StoreBackend.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "registry/etcd/calls.hpp"
#include "registry/etcd/watch_hub.hpp"
#include "registry/store/check_commit.hpp"
#include "registry/store/store.hpp"

namespace registry::etcd::detail {

/// 127 guarded writes fit beside their outer transaction into etcd's 128 operations; its requests may
/// have 1.5 MiB.
inline Limits commit_limits() { return Limits(127, 1024 * 1024); }

inline KeyValue take_pair(pb::KeyValue& from) {
  KeyValue pair;
  pair.key = std::move(*from.mutable_key());
  pair.value = std::move(*from.mutable_value());
  pair.create_revision = from.create_revision();
  pair.mod_revision = from.mod_revision();
  pair.lease = from.lease();
  return pair;
}

/// The guard: the key's mod_revision is what we expect; 0 means that it is absent.
inline void add_guard(pb::TxnRequest& txn, const Write& write) {
  auto& guard = *txn.add_compare();
  guard.set_result(pb::Compare::EQUAL);
  guard.set_target(pb::Compare::MOD);
  guard.set_key(write.key);
  guard.set_mod_revision(write.expected);
}

inline void add_effect(pb::TxnRequest& txn, const Write& write) {
  pb::RequestOp& effect = *txn.add_success();
  if (write.value) {
    auto& put = *effect.mutable_request_put();
    put.set_key(write.key);
    put.set_value(*write.value);
    put.set_lease(write.lease);
  } else {
    effect.mutable_request_delete_range()->set_key(write.key);
  }
}

/// IF every guard holds THEN all the writes. It costs etcd half of what each write on its own does.
inline pb::TxnRequest all_or_none(const std::vector<Write>& writes) {
  pb::TxnRequest txn;
  for (const Write& write : writes) {
    add_guard(txn, write);
    add_effect(txn, write);
  }
  return txn;
}

/// Each write judged on its own: IF its guard holds THEN write ELSE read who stands there.
inline pb::TxnRequest each_on_its_own(const std::vector<Write>& writes) {
  pb::TxnRequest txn;
  for (const Write& write : writes) {
    pb::TxnRequest& one = writes.size() == 1 ? txn : *txn.add_success()->mutable_request_txn();
    add_guard(one, write);
    add_effect(one, write);
    one.add_failure()->mutable_request_range()->set_key(write.key);
  }
  return txn;
}

[[noreturn]] inline void fail_unclear() {
  fail(errc::outcome_unknown, "etcd: Txn: the answer does not fit the writes");
}

inline Written take_applied(const Write& write, const pb::ResponseOp& response) {
  const bool fits = write.value ? response.has_response_put() : response.has_response_delete_range();
  if (!fits) fail_unclear();
  Written written;
  // Deleting what is absent holds its guard and changes nothing: that counts as refused.
  written.applied = write.value || response.response_delete_range().deleted() > 0;
  return written;
}

inline Written take_own(const Write& write, pb::TxnResponse& answer) {
  if (answer.responses_size() != 1) fail_unclear();
  pb::ResponseOp& response = *answer.mutable_responses(0);
  if (answer.succeeded()) return take_applied(write, response);
  if (!response.has_response_range()) fail_unclear();
  Written written;
  auto& found = *response.mutable_response_range()->mutable_kvs();
  if (!found.empty()) written.found = take_pair(found[0]);
  return written;
}

/// The answer to all_or_none(): empty if a guard did not hold, and nothing was written.
inline std::optional<Committed> take_all(const std::vector<Write>& writes, const pb::TxnResponse& answer) {
  const auto results = static_cast<std::size_t>(answer.responses_size());
  if (answer.header().revision() <= 0 || results != (answer.succeeded() ? writes.size() : 0)) fail_unclear();
  if (!answer.succeeded()) return std::nullopt;
  Committed committed;
  committed.revision = answer.header().revision();
  committed.results.reserve(writes.size());
  for (std::size_t i = 0; i < writes.size(); ++i) {
    committed.results.push_back(take_applied(writes[i], answer.responses(static_cast<int>(i))));
  }
  return committed;
}

/// The answer to each_on_its_own().
inline Committed take_each(const std::vector<Write>& writes, pb::TxnResponse& answer) {
  Committed committed;
  committed.revision = answer.header().revision();
  committed.results.reserve(writes.size());
  if (writes.size() == 1) {
    committed.results.push_back(take_own(writes[0], answer));
    return committed;
  }
  if (static_cast<std::size_t>(answer.responses_size()) != writes.size()) fail_unclear();
  for (std::size_t i = 0; i < writes.size(); ++i) {
    pb::ResponseOp& response = *answer.mutable_responses(static_cast<int>(i));
    committed.results.push_back(take_own(writes[i], *response.mutable_response_txn()));
  }
  return committed;
}

inline pb::RangeRequest range_request(const ListQuery& query) {
  pb::RangeRequest request;
  request.set_key(query.after.empty() ? query.range.begin : query.after + '\0');
  request.set_range_end(query.range.end);
  request.set_revision(query.revision);
  request.set_limit(static_cast<std::int64_t>(query.limit));
  request.set_keys_only(query.keys_only);
  request.set_serializable(query.local);
  return request;
}

inline asio::awaitable<Page> list(ConnectionPtr connection, ListQuery query) {
  Page page;
  if (query.range.end.empty() && !query.after.empty()) {
    page.revision = query.revision;  // behind the only key of the range
    co_return page;
  }
  pb::RangeResponse answer = co_await range(connection, range_request(query));
  // A read of the newest revision that goes back is a stale one, unless asking again shows the same: then the
  // cluster was restored or wiped.
  if (query.revision == 0 && !query.local &&
      connection->goes_back(answer.header().cluster_id(), answer.header().revision())) {
    answer = co_await range(connection, range_request(query));
    connection->accept_revision(answer.header().cluster_id(), answer.header().revision());
  }
  page.store_id = std::to_string(answer.header().cluster_id());
  page.revision = query.revision != 0 ? query.revision : answer.header().revision();
  page.more = answer.more();
  page.items.reserve(static_cast<std::size_t>(answer.kvs_size()));
  for (auto& pair : *answer.mutable_kvs()) page.items.push_back(take_pair(pair));
  co_return page;
}

/// Writes that nobody contests take one plain transaction. Only if a guard does not hold does a second one judge each
/// write on its own; the first has written nothing then. Both together have the time of one call.
inline asio::awaitable<Committed> commit(ConnectionPtr connection, std::vector<Write> writes) {
  registry::detail::check_commit(writes, commit_limits());
  const auto deadline = Connection::Clock::now() + connection->config.request_timeout;
  if (writes.size() > 1) {
    pb::TxnRequest together = all_or_none(writes);
    const pb::TxnResponse answer = co_await txn(connection, std::move(together));
    std::optional<Committed> committed = take_all(writes, answer);
    if (committed) co_return std::move(*committed);
  }
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Connection::Clock::now());
  if (left.count() <= 0) fail(errc::timed_out, "etcd: Txn");
  pb::TxnRequest apart = each_on_its_own(writes);
  pb::TxnResponse answer = co_await txn(std::move(connection), std::move(apart), left);
  Committed committed = take_each(writes, answer);
  co_return committed;
}

inline asio::awaitable<Lease> grant(ConnectionPtr connection, std::int64_t id, std::chrono::seconds ttl) {
  pb::LeaseGrantRequest request;
  request.set_id(id);
  request.set_ttl(ttl.count());
  const pb::LeaseGrantResponse answer = co_await lease_grant(std::move(connection), std::move(request));
  co_return Lease(answer.id(), std::chrono::seconds(answer.ttl()));
}

inline asio::awaitable<void> revoke(ConnectionPtr connection, std::int64_t id) {
  pb::LeaseRevokeRequest request;
  request.set_id(id);
  co_await lease_revoke(std::move(connection), std::move(request));
}

class Backend final : public StoreBackend {
 public:
  explicit Backend(ConnectionPtr connection) : connection_(std::move(connection)) {}

  const ConnectionPtr& connection() const noexcept { return connection_; }

  asio::any_io_executor get_executor() const noexcept override { return connection_->executor.executor(); }

  Limits limits() const noexcept override { return commit_limits(); }

  asio::awaitable<Page> list(ListQuery query) override { return detail::list(connection_, std::move(query)); }
  asio::awaitable<Committed> commit(std::vector<Write> writes) override {
    return detail::commit(connection_, std::move(writes));
  }
  asio::awaitable<Lease> grant(std::int64_t id, std::chrono::seconds ttl) override {
    return detail::grant(connection_, id, ttl);
  }
  asio::awaitable<std::chrono::seconds> renew(std::int64_t id, std::chrono::milliseconds timeout) override {
    return lease_keep_alive(connection_, id, timeout);
  }
  asio::awaitable<void> revoke(std::int64_t id) override { return detail::revoke(connection_, id); }
  Generator<Batch> watch(KeyRange range, std::int64_t from) override {
    if (from <= 0)
      fail(errc::invalid_argument,
           "from = " + std::to_string(from) + ": list first, then watch its revision + 1");
    return detail::watch(connection_, std::move(range), from);
  }

  void cancel() noexcept override {
    if (!connection_->close_calls()) return;
    connection_->home.post([connection = connection_] { connection->tasks.cancel(); });
  }

 private:
  ConnectionPtr connection_;
};

}  // namespace registry::etcd::detail
