// An application of the library, as a soak needs two: a Connector behind a gate to each member, a Registry
// that keeps instances, watches, views, and a range that is followed below all of it.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/codec.hpp"
#include "registry/model/keys.hpp"
#include "registry/store/follow.hpp"
#include "rig/gate.hpp"
#include "soak/history.hpp"
#include "soak/journal.hpp"

namespace soak {

/// What all actors share.
struct Stage {
  Stage(Journal& to, std::uint64_t from_seed) : journal(to), seed(from_seed) {}

  registry::ServiceInstance make(const std::string& service, const std::string& id, std::uint64_t draw) {
    registry::ServiceInstance made(service, id);
    made.version = draw % 3 == 0 ? "v2" : "v1";
    made.metadata["n"] = std::to_string(serial.fetch_add(1) + 1);
    made.endpoints = {"grpc://127.0.0.1:9001"};
    return made;
  }

  Journal& journal;
  const std::uint64_t seed;
  KeyNames names;
  std::atomic<std::uint64_t> serial{0}, writes{0}, failed_writes{0}, events{0}, samples{0}, operations{0};
  std::atomic<bool> stop{false};   // of everything that changes something
  std::atomic<bool> hurry{false};  // slow consumers catch up
  // Services that only writers touch; the first one is also watched slowly, the second one through a filter.
  const std::vector<std::string> written{"written-a", "written-b", "written-c"};
  static constexpr std::size_t written_ids = 40;
  static std::string written_id(std::uint64_t draw) { return "w" + std::to_string(draw % written_ids); }
};

/// The log of one watcher.
struct Recording {
  Recording(std::string of, std::string only, bool slowly, bool all)
      : service(std::move(of)), version(std::move(only)), slow(slowly), whole(all) {}

  const std::string service, version;
  const bool slow, whole;  // whole: never dropped
  mutable std::mutex mutex;
  std::vector<Seen> log;
  bool ended = false;
};

/// A view, as somebody saw it who looked now and then.
struct Sampled {
  std::string service, version;
  registry::ServiceView view;
  std::int64_t last = 0;
  std::vector<std::pair<std::int64_t, std::uint64_t>> lists;  // revision, sum of the list
};

std::uint64_t sum_of(const State& state);

/// An instance that a client registers, and what the client believes of it.
struct Slot {
  std::string service, id;
  std::chrono::seconds ttl{5};
  bool wanted = false;
  std::uint64_t content = 0;
};

struct Told {
  registry::RegistrationState state;
  Clock::time_point at;
  std::error_code reason;
};

class RangeRecorder;

class Client {
 public:
  Client(Stage& stage, asio::thread_pool& pool, std::size_t number, const std::vector<std::string>& members,
         std::size_t instances);
  ~Client();

  /// Registers, watches and views until the stage says stop.
  void start();
  /// Looks at every view; from one thread.
  void sample();
  /// Whether everything that changes something has ended, after the stage said stop.
  bool idle() const { return busy_ == 0; }
  void close();

  // Read when idle.
  const std::vector<std::shared_ptr<Slot>>& slots() const { return slots_; }
  std::vector<std::shared_ptr<Recording>> recordings() const;
  std::map<std::string, std::vector<Told>> told() const;
  const std::vector<Sampled>& views() const { return views_; }
  /// Of views that lived for one look.
  const std::vector<Sampled>& passing_views() const { return passing_; }
  const RangeRecorder& range() const { return *range_; }
  std::size_t resyncs(const std::string& label) const {
    return ears_->count("registry_resyncs_total", label);
  }
  std::size_t reconnects(const std::string& label) const {
    return ears_->count("registry_reconnects_total", label);
  }
  const std::string& service() const { return service_; }
  const std::string& name() const { return name_; }
  std::size_t bytes() const;
  std::vector<std::unique_ptr<rig::Gate>> gates;

 private:
  asio::awaitable<void> keep(std::shared_ptr<Slot> slot, std::uint64_t seed);
  asio::awaitable<void> churn(std::uint64_t seed);
  asio::awaitable<void> listen();
  asio::awaitable<void> subscribe(std::string service, std::string version);
  static asio::awaitable<void> record(Stage* stage, registry::Generator<registry::ServiceEvent> events,
                                      std::shared_ptr<Recording> to);
  void watch(const std::string& service, const std::string& version, bool slow);
  template <class Work>
  void spawn(Work work, std::atomic<int>& count);
  bool tolerable(const std::system_error& error, const std::string& what);

  Stage& stage_;
  asio::thread_pool& pool_;
  const std::string name_, service_;
  std::shared_ptr<Ears> ears_;
  std::shared_ptr<RangeRecorder> range_;
  std::optional<registry::etcd::Connector> store_;
  std::optional<registry::Registry> registry_;
  std::vector<std::shared_ptr<Slot>> slots_;
  mutable std::mutex mutex_;
  std::vector<std::shared_ptr<Recording>> recordings_;
  std::map<std::string, std::vector<Told>> told_;
  std::vector<Sampled> views_, new_views_, passing_;
  std::atomic<int> busy_{0}, consuming_{0};
};

/// The sink of a low-level follow: everything that it is told, to be compared with the oracle line by line.
class RangeRecorder : public registry::detail::RangeSink {
 public:
  RangeRecorder(KeyNames& names, Journal& journal) : names_(names), journal_(journal) {}

  void begin_list() override;
  void list_page(registry::Page page) override;
  void end_list(std::int64_t revision) override;
  void apply(registry::Batch batch) override;
  void fresh() override {}
  void stale(const registry::detail::Problem&) override {}
  std::vector<std::pair<std::string, std::int64_t>> known() override;

  /// Each list against the state of its revision, and what follows it line by line. Empty: all is well.
  /// `end`: the revision where the truth ends, which must have been reached.
  std::string compare(const Effects& truth, std::int64_t end) const;
  std::size_t lists() const;
  std::size_t changes() const;

 private:
  struct Section {
    std::int64_t revision = 0;  // of the list
    State list;
    std::vector<Seen> changes;  // content of removals: none
  };

  KeyNames& names_;
  Journal& journal_;
  mutable std::mutex mutex_;
  std::vector<Section> sections_;
  State listing_;
  std::map<std::string, std::int64_t> known_, listing_known_;
  std::int64_t through_ = 0;
};

}  // namespace soak
