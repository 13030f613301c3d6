// A Registry on three real etcd members, each behind a gate of its own, running on a pool of threads; and what
// tests of a cluster need beside it: steady writes, events compared with the truth, members made by hand.
#pragma once

#include <algorithm>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rig/cluster.hpp"
#include "rig/quiet_thread.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/world.hpp"

namespace rig {

using Gates = std::vector<std::unique_ptr<Gate>>;

struct ClusterWorld {
  /// The endpoints of `settings` are replaced by the gates.
  explicit ClusterWorld(registry::RegistryConfig config = quick_config(),
                        EtcdOptions options = Cluster::quick(),
                        registry::etcd::ConnectorConfig settings = connector_config(""))
      : cluster(3, std::move(options)),
        gates(gates_of(cluster)),
        store(pool.get_executor(), through(gates, std::move(settings)), observer()),
        reg(store, std::move(config), observer()) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }

  /// The member that our calls go to: makes one and looks at which gate it went up through. Watches that have
  /// not failed since the Connector began are there, too.
  std::size_t in_use() {
    registry::etcdpb::RangeRequest request;
    request.set_key("/genesis/services/probe");
    request.set_count_only(true);
    std::vector<std::uint64_t> before;
    for (const auto& gate : gates) before.push_back(gate->bytes_up());
    run(store.range(request));
    const auto sent = [&](std::size_t i) { return gates[i]->bytes_up() - before[i]; };
    std::size_t most = 0;  // others may carry a ping
    for (std::size_t i = 1; i < gates.size(); ++i) {
      if (sent(i) > sent(most)) most = i;
    }
    return most;
  }

  /// The member in use, seen to that it follows: its end needs no election.
  std::size_t in_use_as_follower() {
    for (;;) {
      const auto member = in_use();
      if (cluster.leader() != member) return member;
      cluster.move_leader((member + 1) % cluster.size());
    }
  }
  std::size_t in_use_as_leader() {
    for (;;) {
      const auto member = in_use();
      if (cluster.leader() == member) return member;
      cluster.move_leader(member);
    }
  }

  /// For writers and oracles: around the gates.
  std::vector<std::string> direct() const { return cluster.endpoints(); }
  std::vector<std::string> direct_without(std::size_t member) const {
    auto all = direct();
    all.erase(all.begin() + static_cast<std::ptrdiff_t>(member));
    return all;
  }

  static Gates gates_of(Cluster& cluster) {
    Gates gates;
    for (std::size_t i = 0; i < cluster.size(); ++i)
      gates.push_back(std::make_unique<Gate>(cluster[i].endpoint()));
    return gates;
  }
  static registry::etcd::ConnectorConfig through(const Gates& gates,
                                                 registry::etcd::ConnectorConfig settings) {
    settings.endpoints.clear();
    for (const auto& gate : gates) settings.endpoints.push_back(gate->endpoint());
    return settings;
  }

  Cluster cluster;
  Gates gates;
  asio::thread_pool pool{2};
  registry::etcd::Connector store;
  registry::Registry reg;
};

/// Members of one cluster with options of their own. Peers reach each member through a gate, so that the
/// network between them can be parted.
class Members {
 public:
  explicit Members(const std::function<void(std::size_t, EtcdOptions&)>& each, std::size_t count = 3) {
    std::vector<std::shared_ptr<const Port>> ports;
    std::string all;
    for (std::size_t i = 0; i < count; ++i) {
      ports.push_back(std::make_shared<const Port>());
      peer_gates_.push_back(std::make_unique<Gate>(ports.back()->endpoint()));
      all += (i ? ",m" : "m") + std::to_string(i) + "=http://" + peer_gates_.back()->endpoint();
    }
    for (std::size_t i = 0; i < count; ++i) {
      EtcdOptions options = Cluster::quick();
      options.name = "m" + std::to_string(i);
      options.cluster = all;
      options.flags = {"--initial-advertise-peer-urls=http://" + peer_gates_[i]->endpoint()};
      each(i, options);
      members_.emplace_back(std::move(options), ports[i]).start();
    }
    wait_ready();
  }

  std::size_t size() const { return members_.size(); }
  Etcd& operator[](std::size_t i) { return members_.at(i); }

  /// By the metrics ports alone: the client ports may be of any kind.
  void wait_ready() {
    const auto ready = [&] {
      return std::all_of(members_.begin(), members_.end(), [](Etcd& member) {
        return member.healthy() && member.metric("etcd_server_has_leader") == 1;
      });
    };
    if (!eventually(ready, "members are ready", std::chrono::seconds(30)))
      throw EtcdError("no cluster: " + members_.front().log_tail());
  }
  std::size_t leader() {
    for (std::size_t i = 0; i < size(); ++i) {
      if (members_[i].is_leader()) return i;
    }
    throw EtcdError("nobody leads");
  }

  /// A follower and the leader cannot reach each other; both reach the third member. The third member dials
  /// neither of them, they dial it.
  void part(std::size_t follower) {
    peer_gates_[follower]->refuse();
    peer_gates_[leader()]->refuse();
  }
  void heal() {
    for (const auto& gate : peer_gates_) gate->accept();
  }

 private:
  Gates peer_gates_;
  std::vector<Etcd> members_;
};

/// Writes instances of a service, one after the other, on a thread of its own.
class Writer {
 public:
  Writer(std::vector<std::string> endpoints, std::string service) : service_(std::move(service)) {
    thread_ = quiet_thread([this, etcd = RawEtcd(std::move(endpoints))]() mutable {
      for (std::size_t n = 0; !stop_; ++n) {
        const auto id = "copy-" + std::to_string(n % 5);
        const auto key = key_of(service_, id);
        const auto value = registry::encode(instance(service_, id, "v" + std::to_string(n)));
        if (n % 7 == 6 ? etcd.del(key) : etcd.put(key, value)) ++written_;
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
    });
  }
  ~Writer() { stop(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  void stop() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  /// Writes that were answered.
  std::size_t written() const { return written_; }

 private:
  const std::string service_;
  std::atomic<bool> stop_ = false;
  std::atomic<std::size_t> written_ = 0;
  std::thread thread_;
};

/// The longest time in which nothing came, from now until the condition holds. Throws TooLate.
template <class T, class Condition>
std::chrono::milliseconds longest_silence(const Log<T>& log, Condition until,
                                          std::chrono::milliseconds limit = patience) {
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + limit;
  Clock::duration longest{0};
  auto size = log.size();
  for (auto since = Clock::now();;) {
    const auto now = Clock::now();
    longest = std::max(longest, now - since);
    if (const auto grown = log.size(); grown != size) size = grown, since = now;
    if (until()) return std::chrono::ceil<std::chrono::milliseconds>(longest);
    if (now > end) throw TooLate();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

/// The events of a service in the words of the store, to be compared with an oracle's.
inline std::vector<std::string> in_words(const std::vector<registry::ServiceEvent>& events,
                                         std::int64_t behind) {
  std::vector<std::string> all;
  for (const auto& event : events) {
    if (event.revision <= behind) continue;
    const bool deleted = event.type == registry::EventType::Delete;
    all.push_back(std::to_string(event.revision) + (event.resynced ? " resynced " : " ") +
                  key_of(event.service.name, event.service.id) +
                  (deleted ? " deleted" : " = " + registry::encode(event.service)));
  }
  return all;
}
inline std::vector<std::string> in_words(const std::vector<RawEvent>& events) {
  std::vector<std::string> all;
  for (const auto& event : events) {
    all.push_back(std::to_string(event.mod_revision) + " " + event.key +
                  (event.deleted ? " deleted" : " = " + event.value));
  }
  return all;
}

/// Somebody writes all the time, a registry watches, and an oracle knows the truth. Writer and oracle stay
/// away from one member, so what happens to it is not their trouble.
class Traffic {
 public:
  Traffic(ClusterWorld& world, std::size_t victim, registry::Registry& reg)
      : others_(world.direct_without(victim)), log(world.pool, reg.watch(service)) {
    const auto first = encode(registry::ServiceInstance(service, "first"));
    const auto written = RawEtcd(others_).put(key_of(service, "first"), first);
    const auto runs = [&] {
      const auto events = log.all();
      return written && !events.empty() && events.back().revision >= *written;
    };
    if (!eventually(runs, "the watch runs")) throw TooLate();
    oracle_.emplace(others_, "/genesis/services/" + service + "/");
    writer_.emplace(others_, service);
    if (!eventually(more(5), "events flow")) throw TooLate();
  }
  explicit Traffic(ClusterWorld& world, std::size_t victim) : Traffic(world, victim, world.reg) {}

  /// That many more events from now on have come.
  std::function<bool()> more(std::size_t count) const {
    return [this, wanted = log.size() + count] { return log.size() >= wanted; };
  }
  std::size_t written() const { return writer_->written(); }

  /// The first difference between what was delivered and the truth; empty when every event came once, in
  /// order. Ends the writing.
  std::string difference() {
    writer_->stop();
    const auto truth = in_words(oracle_->finish());
    const auto delivered = [&] { return in_words(log.all(), oracle_->start()); };
    eventually([&] { return delivered().size() >= truth.size(); }, "all events");
    const auto got = delivered();
    const auto [ours, theirs] = std::mismatch(got.begin(), got.end(), truth.begin(), truth.end());
    if (ours == got.end() && theirs == truth.end()) return {};
    return "event " + std::to_string(ours - got.begin()) + " of " + std::to_string(truth.size()) + ": got " +
           (ours == got.end() ? "nothing" : *ours) + ", wanted " +
           (theirs == truth.end() ? "nothing" : *theirs);
  }

  inline static const std::string service = "user-service";

 private:
  const std::vector<std::string> others_;

 public:
  EventLog log;

 private:
  std::optional<Oracle> oracle_;
  std::optional<Writer> writer_;
};

}  // namespace rig
