// How long it takes until the calls of a gRPC channel follow a change in etcd: 100 instances, one of them moves.
//   propagation [--rounds 200] [--instances 100] [--seed N] [--json FILE]
//
// In each round another client, which has nothing of the library, puts the changed value of one instance whose
// endpoint is new. All times of a round count from the moment before that put is sent, so each of them includes
// what etcd itself takes to commit it:
//   put answered              the answer is back at the writer
//   the floor                 a bare blocking gRPC stream has read the same event, and its value
//   watch event               a coroutine that awaits Registry::watch has it, as an instance
//   update handed to gRPC     the Resolver has written the new endpoints to its control plane's stream
//   call on the new endpoint  the answer of the first call that the new endpoint has served is back. It includes
//                             gRPC's own part (a list of 100 endpoints taken over, a new connection) and the
//                             call itself
//
// How the calls find out at no cost: the instance that moves has the weight 65535, each of the others 1. All 100
// are in use and connected, as with equal weights, but 99.8 % of the calls go to the one that moves, so that
// practically the first call after gRPC has changed over lands on the new endpoint. With equal weights one would
// measure how long 100 calls take. The calls are made one after the other by one thread, from 5 ms before the
// put on, so the last row is late by up to the time of one call (the row "one call"). They keep a part of the
// machine busy as an application would; with pauses of 0.2 ms between them the rows stayed what they were.
//
// Rounds are far enough apart (100 to 120 ms) that each change is the first after a quiet time and goes out at
// once: folding (at most 20 updates a second for a service) is not measured, and there is no queue. Endpoints
// are never used twice, so each round has a new connection. Everything is on this machine, without TLS; etcd
// does not wait for its disk.
//
// Beside the times: how many range requests etcd has served meanwhile (0: a change costs no read of the store),
// and how many updates gRPC was given (1 for each change).
#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/thread_pool.hpp>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <latch>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "floor/etcd.hpp"
#include "registry/etcd/connector.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/encode.hpp"
#include "registry/model/keys.hpp"
#include "registry/rpc/resolver.hpp"
#include "report.hpp"
#include "rig/etcd.hpp"
#include "rig/greeter.hpp"
#include "rig/quiet_thread.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/run.hpp"

namespace {

using namespace std::chrono_literals;
using bench::Clock;

constexpr auto service = "user-service";
constexpr int warm_up = 5;

enum Stage { raw_event, event, update, call, stages };

/// When each stage of the round under way was reached. Any thread.
class Round {
 public:
  void begin() {
    const std::lock_guard lock(mutex_);
    times_.fill(std::nullopt);
    missing_ = stages;
  }
  void reached(Stage stage) noexcept {
    const auto now = Clock::now();
    const std::lock_guard lock(mutex_);
    if (times_[stage] || missing_ == 0) return;
    times_[stage] = now;
    if (--missing_ == 0) complete_.notify_one();
  }
  /// Once all stages are reached.
  std::array<Clock::time_point, stages> times() {
    std::unique_lock lock(mutex_);
    if (!complete_.wait_for(lock, 20s, [this] { return missing_ == 0; })) {
      std::string late;
      for (int i = 0; i < stages; ++i) {
        if (!times_[i]) late += " " + std::to_string(i);
      }
      throw std::runtime_error("a change did not arrive within 20 s; stages missing:" + late);
    }
    std::array<Clock::time_point, stages> found;
    for (int i = 0; i < stages; ++i) found[i] = *times_[i];
    return found;
  }

 private:
  std::mutex mutex_;
  std::condition_variable complete_;
  std::array<std::optional<Clock::time_point>, stages> times_;
  int missing_ = 0;
};

/// Learns of updates as an application's metrics do.
class UpdateMetrics final : public registry::Metrics {
 public:
  explicit UpdateMetrics(Round& round) : round_(round) {}
  void add(const registry::Metric& metric, std::string_view, double) noexcept override {
    if (metric.name != registry::metric::resolver_updates.name) return;
    round_.reached(update);
    ++updates;
  }
  std::atomic<int> updates = 0;

 private:
  Round& round_;
};

/// The floor follows the service on a thread of its own.
class RawWatch {
 public:
  RawWatch(const std::string& endpoint, const registry::KeyRange& range, Round& round) {
    thread_ = rig::quiet_thread([this, endpoint, range, &round] {
      bare::watch(
          bare::connect(endpoint), context_, range.begin, range.end, [this] { follows_.count_down(); },
          [&round] { round.reached(raw_event); });
    });
    follows_.wait();
  }
  ~RawWatch() {
    context_.TryCancel();
    thread_.join();
  }

 private:
  grpc::ClientContext context_;
  std::latch follows_{1};
  std::thread thread_;
};

/// Makes one call after the other from `look_for` on, until one is answered by the server that is looked for.
class Caller {
 public:
  Caller(const std::shared_ptr<grpc::Channel>& channel, Round& round)
      : stub_(greeter::Greeter::NewStub(channel)), round_(round) {
    thread_ = rig::quiet_thread([this] { run(); });
  }
  ~Caller() {
    look_for(&over_);
    thread_.join();
  }

  void look_for(const std::string* server) {
    wanted_ = server;
    wanted_.notify_one();
  }
  /// How long the calls took that were made in all rounds. Between rounds.
  const std::vector<double>& calls() const noexcept { return calls_; }
  int failed() const noexcept { return failed_; }

 private:
  void run() {
    for (;;) {
      wanted_.wait(nullptr);
      const std::string* const wanted = wanted_;
      if (wanted == &over_) return;
      const auto began = Clock::now();
      const rig::Hello made = rig::hello(*stub_);
      if (!made.status.ok()) ++failed_;
      if (made.served_by != *wanted) {
        calls_.push_back(bench::milliseconds(Clock::now() - began));
        continue;
      }
      const std::string* found = wanted;
      wanted_.compare_exchange_strong(found, nullptr);
      round_.reached(call);
    }
  }

  const std::unique_ptr<greeter::Greeter::Stub> stub_;
  Round& round_;
  std::atomic<const std::string*> wanted_ = nullptr;
  const std::string over_;  // stands for the end
  std::atomic<int> failed_ = 0;
  std::vector<double> calls_;
  std::thread thread_;
};

asio::awaitable<void> follow(registry::Generator<registry::ServiceEvent> events, Round& round) {
  while (auto next = co_await events.next()) round.reached(event);
}

/// The address of the nth endpoint; all of them are this machine.
std::string loopback(std::size_t n) {
  return "127." + std::to_string(1 + n / 62500) + "." + std::to_string(n / 250 % 250) + "." +
         std::to_string(1 + n % 250);
}

registry::ServiceInstance instance_at(const std::string& id, std::size_t place, int port, int weight) {
  registry::ServiceInstance made(service, id);
  made.version = "v1";
  made.metadata = {{"weight", std::to_string(weight)}};
  made.endpoints = {"grpc://" + loopback(place) + ":" + std::to_string(port)};
  return made;
}

void put(rig::RawEtcd& etcd, const registry::ServiceInstance& instance) {
  const std::string key = registry::KeyLayout().key_of(service, instance.id);
  if (!etcd.put(key, registry::encode(instance)))
    throw std::runtime_error("put: " + etcd.status().error_message());
}

std::int64_t range_requests(const rig::Etcd& etcd) {
  return static_cast<std::int64_t>(etcd.metric("grpc_server_handled_total", "grpc_method=\"Range\""));
}

void measure(const bench::Arguments& arguments) {
  const auto rounds = static_cast<int>(arguments.number("--rounds", 200));
  const std::size_t instances = arguments.number("--instances", 100);
  const std::uint64_t seed = arguments.number("--seed", std::random_device()());
  if (rounds < 1 || instances < 1) throw std::invalid_argument("--rounds and --instances are at least 1");

  rig::Etcd etcd;
  rig::RawEtcd writer({etcd.endpoint()});
  // The instance that moves is served by the first two in turn, the others by the third; each of them listens at
  // all addresses of this machine.
  const rig::Greeter even("even", "0.0.0.0:0"), odd("odd", "0.0.0.0:0"), others("others", "0.0.0.0:0");
  std::size_t place = 0;  // the next address that was not used yet
  for (std::size_t i = 1; i < instances; ++i) {
    put(writer, instance_at("user-" + std::to_string(i), place++, others.port(), 1));
  }
  const auto move = [&](const rig::Greeter& to) {
    return instance_at("moving", place++, to.port(), registry::ServiceInstance::max_weight);
  };
  put(writer, move(odd));

  Round round;
  const auto metrics = std::make_shared<UpdateMetrics>(round);
  asio::thread_pool pool(1);
  registry::etcd::ConnectorConfig settings;
  settings.endpoints = {etcd.endpoint()};
  registry::etcd::Connector store(pool.get_executor(), settings);
  registry::Registry reg(store, registry::RegistryConfig(), registry::Observer(nullptr, metrics));
  registry::ResolverConfig config;
  config.max_endpoints = instances;
  registry::Resolver resolver(reg, config);
  registry::ConnectionOptions options;
  options.at_least = instances;
  options.timeout = 20s;
  const auto channel =
      rig::run(pool, resolver.get_connection(service, grpc::InsecureChannelCredentials(), options), 30s);
  asio::co_spawn(pool, follow(reg.watch(service), round), asio::detached);
  std::vector<double> answered;
  std::array<std::vector<double>, stages> delays;
  std::vector<double> one_call;

  std::int64_t ranges = 0;
  int updates = 0, failed = 0;
  {
    const RawWatch raw(etcd.endpoint(), registry::KeyLayout().service_range(service), round);
    Caller caller(channel, round);
    std::mt19937_64 random(seed);
    for (int i = -warm_up; i < rounds; ++i) {
      if (i == 0) {
        ranges = range_requests(etcd);
        updates = metrics->updates;
      }
      std::this_thread::sleep_for(100ms + std::chrono::microseconds(random() % 20000));
      const rig::Greeter& to = i % 2 == 0 ? even : odd;
      const registry::ServiceInstance moved = move(to);
      round.begin();
      caller.look_for(&to.id());
      std::this_thread::sleep_for(5ms);
      const auto before = Clock::now();
      put(writer, moved);
      const auto after = Clock::now();
      const auto times = round.times();
      if (i < 0) continue;
      answered.push_back(bench::milliseconds(after - before));
      for (int stage = 0; stage < stages; ++stage)
        delays[stage].push_back(bench::milliseconds(times[stage] - before));
    }
    failed = caller.failed();
    one_call = caller.calls();
  }
  if (failed > 0) throw std::runtime_error(std::to_string(failed) + " calls failed");
  bench::Table table;
  const auto add = [&](const std::string& what, const std::vector<double>& times, bool with_floor,
                       double budget) {
    bench::Row row(what, "ms");
    row.library = bench::median(times);
    if (with_floor) {
      row.floor = bench::median(delays[raw_event]);
      row.ratio = *row.library / *row.floor;
    }
    if (budget > 0) row.budget = budget;
    row.of_ratio = false;
    char text[80];
    std::snprintf(text, sizeof text, "p90 %.2f, p99 %.2f", bench::quantile(times, 0.9),
                  bench::quantile(times, 0.99));
    row.note = text;
    table.add(std::move(row));
  };
  const std::string size = std::to_string(instances);
  add("propagation: put answered, p50", answered, false, 0);
  add("propagation: put -> watch event, p50", delays[event], true, 0);
  add("propagation: put -> update handed to gRPC, p50", delays[update], true, 0);
  add("propagation: put -> a gRPC channel uses the new endpoint, p50", delays[call], true, 5);
  add("propagation: one call, p50", one_call, false, 0);
  bench::Row reads("propagation: reads of the store", "");
  reads.library = static_cast<double>(range_requests(etcd) - ranges);
  reads.budget = 0;
  reads.of_ratio = false;
  reads.note = size + " instances, " + std::to_string(rounds) + " changes, " +
               std::to_string(metrics->updates - updates) + " updates given to gRPC " + grpc::Version() +
               ", seed " + std::to_string(seed);
  table.add(std::move(reads));
  table.write(arguments.text("--json"));
  rig::run(pool, resolver.close());
  rig::run(pool, reg.close());
  pool.join();
}

}  // namespace

int main(int argc, char** argv) try {
  if (rig::skip_without_etcd()) return 1;
  measure(bench::Arguments(argc, argv, {"--rounds", "--instances", "--seed", "--json"}));
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "propagation: %s\n", error.what());
  return 1;
}
