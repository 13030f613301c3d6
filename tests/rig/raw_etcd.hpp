// etcd by plain blocking gRPC calls, with nothing of the library but the generated messages: for the writers of
// a test, and for its oracle.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/status.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "registry/etcd/stub.hpp"

namespace rig {

namespace raw {
namespace pb = ::registry::etcdpb;
namespace rpc = ::etcdserverpb::registry_stub;
}  // namespace raw

/// What a range or a watch of etcd shows.
struct RawEvent {
  bool deleted = false;
  std::string key, value;  // no value when deleted
  std::int64_t mod_revision = 0, lease = 0;
  bool operator==(const RawEvent&) const = default;
};

/// The end of the range of all keys that start with `prefix`.
std::string end_of_prefix(std::string prefix);

/// Blocking calls to the first endpoint that answers. A write is sent once: an empty result means that it failed
/// or that nobody knows. Each object belongs to one thread at a time.
class RawEtcd {
 public:
  explicit RawEtcd(std::vector<std::string> endpoints,
                   std::chrono::milliseconds timeout = std::chrono::seconds(2));

  /// Authenticates, for the calls from now on. False: refused, or nobody answered. A call that is refused because
  /// the token is not valid any more authenticates again and is sent once more: it was not applied.
  bool login(const std::string& user, const std::string& password);
  /// Of the last login; empty without one.
  const std::string& token() const noexcept { return token_; }

  /// The revision that the write got.
  std::optional<std::int64_t> put(const std::string& key, const std::string& value, std::int64_t lease = 0);
  std::optional<std::int64_t> del(const std::string& key);
  /// All in one transaction, in this order.
  std::optional<std::int64_t> put_all(const std::vector<std::pair<std::string, std::string>>& pairs);
  std::optional<std::int64_t> txn(raw::pb::TxnRequest request);

  /// Tried again until a member answers or 20 s are over, then it throws std::runtime_error. Linearizable.
  std::vector<RawEvent> list(const std::string& prefix, std::int64_t* revision = nullptr);
  /// As of that revision.
  std::vector<RawEvent> list_at(const std::string& prefix, std::int64_t revision);
  std::int64_t revision();

  bool compact(std::int64_t revision);
  std::optional<std::int64_t> grant(std::chrono::seconds ttl, std::int64_t id = 0);
  bool revoke(std::int64_t lease);
  std::vector<std::int64_t> leases();

  /// How the last call ended.
  const grpc::Status& status() const noexcept { return status_; }

 private:
  std::vector<RawEvent> list(raw::pb::RangeRequest request, std::int64_t* revision);
  struct Node;
  template <class Call>
  void send(Call call);
  template <class Call>
  bool once(Call call);
  template <class Call>
  void persist(Call call);
  bool authenticate();

  std::vector<std::shared_ptr<Node>> nodes_;
  std::size_t current_ = 0;
  std::chrono::milliseconds timeout_;
  std::string user_, password_, token_;
  grpc::Status status_;
};

/// Who an oracle speaks as; an empty user for a store without authentication.
struct RawLogin {
  std::string user = {}, password = {};
};

/// The truth: every event under a prefix from a revision on, in order, once, whole revisions; watched directly
/// at the members on a thread of its own, resumed by itself. It must not fall behind a compaction.
class Oracle {
 public:
  /// From the revision behind the present one.
  explicit Oracle(std::vector<std::string> endpoints, std::string prefix, RawLogin login = RawLogin());
  ~Oracle();
  Oracle(const Oracle&) = delete;
  Oracle& operator=(const Oracle&) = delete;

  /// The revision that the first event is behind.
  std::int64_t start() const noexcept { return start_; }
  /// The events so far.
  std::vector<RawEvent> events() const;
  /// Hands over the events so far, for runs that are too long to keep them here; finish() then gives the rest.
  std::vector<RawEvent> take();
  /// Compacting up to here leaves it undisturbed.
  std::int64_t seen() const;
  /// All events up to now: writes a mark beside them and waits until it arrives; the mark is not among them.
  /// Throws std::runtime_error when it does not arrive, or when events were missed by the oracle itself.
  /// May be called again.
  std::vector<RawEvent> finish(std::chrono::milliseconds deadline = std::chrono::seconds(30));
  /// The revision of the last mark.
  std::int64_t marked() const;
  /// The state that the events lead to, by key.
  static std::map<std::string, RawEvent> state(const std::vector<RawEvent>& before,
                                               const std::vector<RawEvent>& events);

 private:
  std::string token(const std::string& endpoint) const;
  void run();

  const std::vector<std::string> endpoints_;
  const std::string prefix_, mark_;
  const RawLogin login_;
  std::int64_t start_ = 0;
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<RawEvent> events_;
  std::int64_t next_ = 0, marked_ = 0;
  std::string error_;
  std::shared_ptr<grpc::ClientContext> context_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace rig
