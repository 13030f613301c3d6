// The fake etcd: its messages, its small store, and the services in front of it.
#include "rig/scripted_etcd.hpp"

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <atomic>
#include <map>
#include <thread>

namespace rig {

namespace script {

pb::Event put(const std::string& key, std::int64_t revision, const std::string& value) {
  pb::Event event;
  auto& kv = *event.mutable_kv();
  kv.set_key(key);
  kv.set_value(value);
  kv.set_create_revision(revision);
  kv.set_mod_revision(revision);
  kv.set_version(1);
  return event;
}

pb::Event del(const std::string& key, std::int64_t revision) {
  pb::Event event;
  event.set_type(pb::Event::DELETE);
  event.mutable_kv()->set_key(key);
  event.mutable_kv()->set_mod_revision(revision);
  return event;
}

namespace {

pb::WatchResponse answer(std::int64_t id, std::int64_t head) {
  pb::WatchResponse response;
  response.set_watch_id(id);
  response.mutable_header()->set_revision(head);
  return response;
}

}  // namespace

pb::WatchResponse created(std::int64_t id, std::int64_t head) {
  auto response = answer(id, head);
  response.set_created(true);
  return response;
}

pb::WatchResponse events(std::int64_t id, std::int64_t head, const std::vector<pb::Event>& events,
                         bool fragment) {
  auto response = answer(id, head);
  response.set_fragment(fragment);
  for (const auto& event : events) *response.add_events() = event;
  return response;
}

pb::WatchResponse progress(std::int64_t id, std::int64_t head) { return answer(id, head); }

pb::WatchResponse refused(std::int64_t head, const std::string& reason, std::int64_t id) {
  auto response = created(id, head);
  response.set_canceled(true);
  response.set_cancel_reason(reason);
  return response;
}

pb::WatchResponse canceled(std::int64_t id, const std::string& reason) {
  auto response = answer(id, 0);
  response.set_canceled(true);
  response.set_cancel_reason(reason);
  return response;
}

pb::WatchResponse compacted(std::int64_t id, std::int64_t revision) {
  auto response = canceled(id);
  response.set_compact_revision(revision);
  return response;
}

pb::LeaseKeepAliveResponse renewed(std::int64_t lease, std::int64_t ttl) {
  pb::LeaseKeepAliveResponse response;
  response.set_id(lease);
  response.set_ttl(ttl);
  return response;
}

}  // namespace script

namespace {

namespace pb = script::pb;
namespace rpc = ::etcdserverpb::registry_stub;

grpc::Status refusal(grpc::StatusCode code, const std::string& text) {
  return grpc::Status(code, "etcdserver: " + text);
}

/// Keys, leases and a revision.
class Store {
 public:
  Store(std::uint64_t cluster, std::int64_t head) : cluster_(cluster), head_(head) {}

  template <class Work>
  auto locked(Work work) {
    const std::lock_guard lock(mutex_);
    return work(*this);
  }

  grpc::Status range(const pb::RangeRequest& request, pb::RangeResponse& response) {
    const std::lock_guard lock(mutex_);
    if (request.revision() > head_)
      return grpc::Status(grpc::StatusCode::OUT_OF_RANGE,
                          "etcdserver: mvcc: required revision is a future revision");
    fill(response.mutable_header());
    read(request, response);
    return grpc::Status::OK;
  }

  grpc::Status put(const pb::PutRequest& request, pb::PutResponse& response) {
    const std::lock_guard lock(mutex_);
    if (request.lease() != 0 && !leases_.contains(request.lease())) return lease_not_found();
    write(request, ++head_);
    fill(response.mutable_header());
    return grpc::Status::OK;
  }

  grpc::Status txn(const pb::TxnRequest& request, pb::TxnResponse& response) {
    const std::lock_guard lock(mutex_);
    const auto before = pairs_;
    bool changed = false;
    const grpc::Status status = run(request, response, head_ + 1, changed);
    if (!status.ok()) {
      pairs_ = before;
      return status;
    }
    if (changed) ++head_;
    fill(response.mutable_header());
    return status;
  }

  grpc::Status grant(const pb::LeaseGrantRequest& request, pb::LeaseGrantResponse& response) {
    const std::lock_guard lock(mutex_);
    if (leases_.contains(request.id()))
      return refusal(grpc::StatusCode::FAILED_PRECONDITION, "lease already exists");
    leases_[request.id()] = request.ttl();
    fill(response.mutable_header());
    response.set_id(request.id());
    response.set_ttl(request.ttl());
    return grpc::Status::OK;
  }

  grpc::Status revoke(const pb::LeaseRevokeRequest& request, pb::LeaseRevokeResponse& response) {
    const std::lock_guard lock(mutex_);
    if (!leases_.contains(request.id())) return lease_not_found();
    expire(request.id());
    fill(response.mutable_header());
    return grpc::Status::OK;
  }

  pb::LeaseKeepAliveResponse renew(std::int64_t id) {
    const std::lock_guard lock(mutex_);
    const auto found = leases_.find(id);
    auto response = script::renewed(id, found == leases_.end() ? 0 : found->second);
    fill(response.mutable_header());
    return response;
  }

  // With the lock held, from here on.

  std::int64_t set(const std::string& key, const std::string& value, std::int64_t revision) {
    if (revision == 0) revision = head_ + 1;
    pb::PutRequest request;
    request.set_key(key);
    request.set_value(value);
    head_ = std::max(head_, revision);
    write(request, revision);
    return revision;
  }

  void expire(std::int64_t lease) {
    leases_.erase(lease);
    if (std::erase_if(pairs_, [lease](const auto& pair) { return pair.second.lease() == lease; }) != 0)
      ++head_;
  }

  std::uint64_t cluster_;
  std::int64_t head_;
  std::map<std::string, pb::KeyValue> pairs_;
  std::map<std::int64_t, std::int64_t> leases_;  // to their TTL

 private:
  static grpc::Status lease_not_found() {
    return refusal(grpc::StatusCode::NOT_FOUND, "requested lease not found");
  }

  void fill(pb::ResponseHeader* header) const {
    header->set_cluster_id(cluster_);
    header->set_revision(head_);
  }

  void read(const pb::RangeRequest& request, pb::RangeResponse& response) const {
    const auto begin = pairs_.lower_bound(request.key());
    const auto end = request.range_end().empty() ? pairs_.upper_bound(request.key())
                                                 : pairs_.lower_bound(request.range_end());
    std::int64_t count = 0;
    for (auto at = begin; at != end && at != pairs_.end(); ++at) {
      ++count;
      if (request.count_only()) continue;
      if (request.limit() != 0 && count > request.limit()) {
        response.set_more(true);
        continue;
      }
      *response.add_kvs() = at->second;
      if (request.keys_only()) response.mutable_kvs()->rbegin()->clear_value();
    }
    response.set_count(count);
  }

  void write(const pb::PutRequest& request, std::int64_t revision) {
    pb::KeyValue& kv = pairs_[request.key()];
    if (kv.version() == 0) kv.set_create_revision(revision);
    kv.set_key(request.key());
    kv.set_value(request.value());
    kv.set_lease(request.lease());
    kv.set_mod_revision(revision);
    kv.set_version(kv.version() + 1);
  }

  bool holds(const pb::Compare& compare) const {
    const auto found = pairs_.find(compare.key());
    return (found == pairs_.end() ? 0 : found->second.mod_revision()) == compare.mod_revision();
  }

  grpc::Status run(const pb::TxnRequest& request, pb::TxnResponse& response, std::int64_t revision,
                   bool& changed) {
    const bool holding = std::all_of(request.compare().begin(), request.compare().end(),
                                     [this](const auto& compare) { return holds(compare); });
    response.set_succeeded(holding);
    for (const auto& step : holding ? request.success() : request.failure()) {
      auto& result = *response.add_responses();
      if (step.has_request_range()) {
        read(step.request_range(), *result.mutable_response_range());
      } else if (step.has_request_put()) {
        const auto& put = step.request_put();
        if (put.lease() != 0 && !leases_.contains(put.lease())) return lease_not_found();
        write(put, revision);
        result.mutable_response_put();
        changed = true;
      } else if (step.has_request_delete_range()) {
        const auto deleted = pairs_.erase(step.request_delete_range().key());
        result.mutable_response_delete_range()->set_deleted(static_cast<std::int64_t>(deleted));
        changed = changed || deleted != 0;
      } else {
        const grpc::Status status =
            run(step.request_txn(), *result.mutable_response_txn(), revision, changed);
        if (!status.ok()) return status;
      }
    }
    return grpc::Status::OK;
  }

  std::mutex mutex_;
};

/// Streams that wait for the test, in order.
template <class Reactor>
class Arrivals {
 public:
  void add(std::shared_ptr<Reactor> stream) {
    const std::lock_guard lock(mutex_);
    std::erase_if(all_, [](const auto& weak) { return weak.expired(); });
    all_.push_back(stream);
    streams_.push_back(std::move(stream));
    arrived_.notify_all();
  }
  /// Ends all that are open, also those that were taken.
  void end_all() {
    const std::lock_guard lock(mutex_);
    for (const auto& weak : all_) {
      if (const auto stream = weak.lock())
        stream->finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the scripted etcd is gone"));
    }
  }
  std::shared_ptr<Reactor> next(std::chrono::milliseconds limit, const char* what) {
    std::unique_lock lock(mutex_);
    if (!arrived_.wait_for(lock, limit, [this] { return !streams_.empty(); })) throw NotInTime(what);
    auto stream = std::move(streams_.front());
    streams_.pop_front();
    return stream;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::shared_ptr<Reactor>> streams_;
  std::vector<std::weak_ptr<Reactor>> all_;
};

}  // namespace

struct ScriptedEtcd::Parts {
  Parts(std::uint64_t cluster, std::int64_t head) : store(cluster, head) {}

  Store store;
  Arrivals<WatchStream::Reactor> watches;
  Arrivals<RenewalStream::Reactor> renewals;
  std::atomic<bool> renewals_scripted = false;

  /// What listens. Services belong to one gRPC server each.
  struct Listener {
    Listener(ScriptedEtcd& etcd, int wanted) : kv(etcd), watch(etcd), lease(etcd), auth(etcd) {
      grpc::ServerBuilder builder;
      builder.AddListeningPort("127.0.0.1:" + std::to_string(wanted), grpc::InsecureServerCredentials(),
                               &port);
      builder.RegisterService(&kv);
      builder.RegisterService(&watch);
      builder.RegisterService(&lease);
      builder.RegisterService(&auth);
      server = builder.BuildAndStart();
      if (!server || port == 0) throw std::runtime_error("the scripted etcd cannot listen");
    }

    struct Kv final : rpc::KV::CallbackService {
      explicit Kv(ScriptedEtcd& of) : etcd(of) {}
      grpc::ServerUnaryReactor* Range(grpc::CallbackServerContext*, const pb::RangeRequest* request,
                                      pb::RangeResponse* response) override {
        return etcd.range.serve(*request, *response);
      }
      grpc::ServerUnaryReactor* Put(grpc::CallbackServerContext*, const pb::PutRequest* request,
                                    pb::PutResponse* response) override {
        return etcd.puts.serve(*request, *response);
      }
      grpc::ServerUnaryReactor* Txn(grpc::CallbackServerContext*, const pb::TxnRequest* request,
                                    pb::TxnResponse* response) override {
        return etcd.txn.serve(*request, *response);
      }
      ScriptedEtcd& etcd;
    };

    struct Watches final : rpc::Watch::CallbackService {
      explicit Watches(ScriptedEtcd& of) : etcd(of) {}
      grpc::ServerBidiReactor<pb::WatchRequest, pb::WatchResponse>* Watch(
          grpc::CallbackServerContext* context) override {
        auto stream = WatchStream::Reactor::open(*context, {});
        etcd.parts_->watches.add(stream);
        return stream.get();
      }
      ScriptedEtcd& etcd;
    };

    struct Leases final : rpc::Lease::CallbackService {
      explicit Leases(ScriptedEtcd& of) : etcd(of) {}
      grpc::ServerUnaryReactor* LeaseGrant(grpc::CallbackServerContext*, const pb::LeaseGrantRequest* request,
                                           pb::LeaseGrantResponse* response) override {
        return etcd.grant.serve(*request, *response);
      }
      grpc::ServerUnaryReactor* LeaseRevoke(grpc::CallbackServerContext*,
                                            const pb::LeaseRevokeRequest* request,
                                            pb::LeaseRevokeResponse* response) override {
        return etcd.revoke.serve(*request, *response);
      }
      grpc::ServerBidiReactor<pb::LeaseKeepAliveRequest, pb::LeaseKeepAliveResponse>* LeaseKeepAlive(
          grpc::CallbackServerContext* context) override {
        if (etcd.parts_->renewals_scripted) {
          auto stream = RenewalStream::Reactor::open(*context, {});
          etcd.parts_->renewals.add(stream);
          return stream.get();
        }
        auto answer = [parts = etcd.parts_.get()](RenewalStream::Reactor& stream,
                                                  const pb::LeaseKeepAliveRequest& request) {
          stream.write(parts->store.renew(request.id()));
        };
        return RenewalStream::Reactor::open(*context, std::move(answer)).get();
      }
      ScriptedEtcd& etcd;
    };

    struct Auth final : rpc::Auth::CallbackService {
      explicit Auth(ScriptedEtcd& of) : etcd(of) {}
      grpc::ServerUnaryReactor* Authenticate(grpc::CallbackServerContext*,
                                             const pb::AuthenticateRequest* request,
                                             pb::AuthenticateResponse* response) override {
        return etcd.authenticate.serve(*request, *response);
      }
      ScriptedEtcd& etcd;
    };

    Kv kv;
    Watches watch;
    Leases lease;
    Auth auth;
    int port = 0;
    std::unique_ptr<grpc::Server> server;
  };

  std::unique_ptr<Listener> listener;
  std::vector<std::unique_ptr<Listener>> leaving;
  std::vector<std::thread> goodbyes;
};

ScriptedEtcd::ScriptedEtcd(std::uint64_t cluster, std::int64_t head)
    : parts_(std::make_unique<Parts>(cluster, head)),
      range([this](const auto& request, auto& response) { return parts_->store.range(request, response); }),
      puts([this](const auto& request, auto& response) { return parts_->store.put(request, response); }),
      txn([this](const auto& request, auto& response) { return parts_->store.txn(request, response); }),
      grant([this](const auto& request, auto& response) { return parts_->store.grant(request, response); }),
      revoke([this](const auto& request, auto& response) { return parts_->store.revoke(request, response); }),
      authenticate([](const auto&, auto&) {
        return refusal(grpc::StatusCode::FAILED_PRECONDITION, "authentication is not enabled");
      }) {
  parts_->listener = std::make_unique<Parts::Listener>(*this, 0);
}

ScriptedEtcd::~ScriptedEtcd() {
  const auto now = std::chrono::system_clock::now();
  parts_->listener->server->Shutdown(now);
  // Theirs is under way and waits for the streams; a second one would wait for the first.
  parts_->watches.end_all();
  parts_->renewals.end_all();
  for (auto& goodbye : parts_->goodbyes) goodbye.join();
}

std::string ScriptedEtcd::endpoint() const { return "127.0.0.1:" + std::to_string(parts_->listener->port); }

WatchStream ScriptedEtcd::next_watch_stream(std::chrono::milliseconds limit) {
  return WatchStream(parts_->watches.next(limit, "a watch stream"),
                     parts_->store.locked([](Store& store) { return store.cluster_; }));
}

RenewalStream ScriptedEtcd::next_renewal(std::chrono::milliseconds limit) {
  return RenewalStream(parts_->renewals.next(limit, "a renewal"),
                       parts_->store.locked([](Store& store) { return store.cluster_; }));
}

void ScriptedEtcd::script_renewals(bool scripted) { parts_->renewals_scripted = scripted; }

void ScriptedEtcd::go_away(std::chrono::milliseconds grace) {
  // Both listen on the port for a moment, so that no client is refused in between.
  auto next = std::make_unique<Parts::Listener>(*this, parts_->listener->port);
  parts_->leaving.push_back(std::exchange(parts_->listener, std::move(next)));
  parts_->goodbyes.emplace_back([server = parts_->leaving.back()->server.get(), grace] {
    server->Shutdown(std::chrono::system_clock::now() + grace);
  });
}

std::int64_t ScriptedEtcd::put(const std::string& key, const std::string& value, std::int64_t revision) {
  return parts_->store.locked([&](Store& store) { return store.set(key, value, revision); });
}

std::int64_t ScriptedEtcd::del(const std::string& key) {
  return parts_->store.locked([&](Store& store) {
    if (store.pairs_.erase(key) != 0) ++store.head_;
    return store.head_;
  });
}

std::optional<script::pb::KeyValue> ScriptedEtcd::entry(const std::string& key) const {
  return parts_->store.locked([&](Store& store) {
    const auto found = store.pairs_.find(key);
    return found == store.pairs_.end() ? std::optional<pb::KeyValue>() : std::optional(found->second);
  });
}

std::int64_t ScriptedEtcd::head() const {
  return parts_->store.locked([](Store& store) { return store.head_; });
}

void ScriptedEtcd::set_head(std::int64_t revision) {
  parts_->store.locked([&](Store& store) { store.head_ = revision; });
}

void ScriptedEtcd::set_cluster(std::uint64_t cluster) {
  parts_->store.locked([&](Store& store) { store.cluster_ = cluster; });
}

void ScriptedEtcd::expire(std::int64_t lease) {
  parts_->store.locked([&](Store& store) { store.expire(lease); });
}

std::vector<std::int64_t> ScriptedEtcd::leases() const {
  return parts_->store.locked([](Store& store) {
    std::vector<std::int64_t> ids;
    for (const auto& [id, ttl] : store.leases_) ids.push_back(id);
    return ids;
  });
}

}  // namespace rig
