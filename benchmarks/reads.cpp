// What reading costs: a list and a pick from 1,000 instances while they change 1,000 times a second; one change until a
// list shows it; and the memory of a list.
//   reads [--json FILE] [options of Google Benchmark, such as --benchmark_filter=robin --benchmark_min_time=5]
//
// snapshot and pick: the view is that of a Registry on a MemoryStore. While one or two threads pick as fast as they can,
// another one puts a changed value of one instance into the store each millisecond, the instances in turn, so that each
// of these changes goes through the store's watch, is decoded, and makes a new list and a new plan of the balancer. What
// is measured is the CPU time of the picking threads divided by their picks (each thread's own clock): the writer and the
// library's strand need some of the processors too. The part of new lists and plans in it is in the time.
// Each row says how many changes came through while it was measured, and how many lists each thread has seen: a machine
// with fewer processors than threads folds some of them.
//   What is picked is looked at once in 1,000 picks. Each instance says in its version at which revision it was written,
// and all of them are written once in 1,000 revisions: one from the current list is never older than that. By how much a
// pick was older is the number "behind": 0 but for threads that go on with the list before while another one is making
// the plan for the new one. A pick that is null or more than five seconds behind makes the run fail.
//
// A change: what the library does on its strand with a change that the watch delivers (decoding, the table, waking), by
// itself and together with the next snapshot() of the view.
//
// Memory: what malloc has handed out more with a table and a snapshot of 100,000 instances than before, divided by the
// bytes of their JSON values; with the metadata of the README (a weight), and with region and zone as well.
#include <benchmark/benchmark.h>
#include <malloc.h>

#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <algorithm>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "budgets.hpp"
#include "instances.hpp"
#include "registry/discovery/balancers.hpp"
#include "registry/discovery/least_loaded.hpp"
#include "registry/discovery/service_follow.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/encode.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/run.hpp"

namespace {

using namespace std::chrono_literals;

constexpr auto service = "user-service";
constexpr int instances = 1000;
constexpr std::int64_t most_behind = 5000;  // five seconds

/// As they are in the field; the version says at which revision it is written.
registry::ServiceInstance instance(int number, std::int64_t revision) {
  return bench::field_instance(service, "user-" + std::to_string(100000 + number),
                               static_cast<std::size_t>(number), std::to_string(revision));
}

/// Counts the changes that the view has taken over.
class Applied final : public registry::Metrics {
 public:
  void add(const registry::Metric& metric, std::string_view, double amount) noexcept override {
    if (metric.name == registry::metric::watch_events.name) changes += static_cast<std::int64_t>(amount);
  }
  std::atomic<std::int64_t> changes = 0;
};

/// A view of 1,000 instances, and who changes them.
class World {
 public:
  World()
      : store_(pool_.get_executor()),
        registry_(store_, registry::RegistryConfig(), registry::Observer(nullptr, applied_)) {
    for (int i = 0; i < instances; ++i) put();
    view = rig::run(pool_, registry_.subscribe(service));
  }
  ~World() {
    rig::run(pool_, registry_.close());
    pool_.join();
  }

  void start_writer() {
    over_ = false;
    writer_ = std::thread([this] {
      for (auto next = std::chrono::steady_clock::now(); !over_; next += 1ms) {
        std::this_thread::sleep_until(next);
        put();
      }
    });
  }
  void stop_writer() {
    over_ = true;
    writer_.join();
  }
  std::int64_t changes() const { return applied_->changes; }

  registry::ServiceView view;
  std::atomic<std::int64_t> behind = 0;  // by how much a pick was older than all of its list, at the most

 private:
  void put() {
    const std::int64_t expected = revision_ + 1;
    const registry::ServiceInstance made = instance(written_++ % instances, expected);
    revision_ = store_.put(registry::KeyLayout().key_of(service, made.id), encode(made));
    if (revision_ != expected && written_ > 1) std::terminate();  // the versions would not be true
  }

  const std::shared_ptr<Applied> applied_ = std::make_shared<Applied>();
  asio::thread_pool pool_{1};
  registry::MemoryStore store_;
  registry::Registry registry_;
  int written_ = 0;
  std::int64_t revision_ = 1;
  std::atomic<bool> over_ = true;
  std::thread writer_;
};

std::optional<World> world;

/// Looks at some of the picks of one thread.
class Looker {
 public:
  using Instance = std::shared_ptr<const registry::ServiceInstance>;

  template <class Pick>
  void look(Pick pick) {
    const auto& list = world->view.current();
    const std::int64_t revision = list->revision;
    if (revision != std::exchange(last_, revision)) ++lists_;
    const Instance picked = pick();
    std::int64_t written = -most_behind;  // for none
    if (picked)
      std::from_chars(picked->version.data(), picked->version.data() + picked->version.size(), written);
    const std::int64_t behind = revision - written - (instances - 1);
    std::int64_t most = world->behind;
    while (behind > most && !world->behind.compare_exchange_weak(most, behind)) continue;
  }
  double lists() const { return lists_; }

 private:
  std::int64_t last_ = 0;
  double lists_ = 0;
};

/// `read` is measured; what `pick` returns is looked at. `budget` in ns; 0: none.
template <class Read, class Pick>
void reads(benchmark::State& state, double budget, Read read, Pick pick) {
  constexpr int batch = 1000;
  Looker looker;
  const bool first = state.thread_index() == 0;
  if (first) {
    world->behind = 0;
    world->start_writer();
  }
  const std::int64_t before = world->changes();
  const auto began = std::chrono::steady_clock::now();
  while (state.KeepRunningBatch(batch)) {
    for (int i = 0; i < batch; ++i) read(i);
    looker.look(pick);
  }
  if (first) {
    state.counters["seconds"] =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    state.counters["changes"] = static_cast<double>(world->changes() - before);
    if (budget > 0) state.counters["budget"] = budget;
    state.counters["behind"] = static_cast<double>(world->behind);
    state.counters["wrong"] = world->behind > most_behind ? 1 : 0;
    world->stop_writer();
  }
  state.counters["lists"] = benchmark::Counter(looker.lists(), benchmark::Counter::kAvgThreads);
}

/// Another balancer for each row; its threads share it.
template <class Balancer, class Pick>
void add_row(const std::string& name, double budget, bool with_snapshot, Pick pick) {
  const auto balancer = std::make_shared<Balancer>();
  const auto run = [=](benchmark::State& state) {
    const auto& view = world->view;
    const auto once = [&](int i) {
      if (with_snapshot) {
        auto list = view.snapshot();
        benchmark::DoNotOptimize(list);
      }
      auto picked = pick(*balancer, view, i);
      benchmark::DoNotOptimize(picked);
    };
    reads(state, budget, once, [&] { return Looker::Instance(pick(*balancer, view, 0)); });
  };
  for (const int threads : {1, 2})
    benchmark::RegisterBenchmark(name.c_str(), run)->Threads(threads)->MinTime(0.5)->Repetitions(7);
}

/// How fast this machine is at the moment.
void floor_row(benchmark::State& state) {
  const auto shared = std::make_shared<int>(1);
  for (auto _ : state) {
    auto copy = shared;
    benchmark::DoNotOptimize(copy);
  }
}

void snapshot_row(benchmark::State& state) {
  const auto once = [](int) {
    auto list = world->view.snapshot();
    benchmark::DoNotOptimize(list);
  };
  reads(state, 0, once, [] { return world->view.snapshot()->instances.front(); });
}

// ---- Without a store: what comes from the watch goes in by hand

/// A followed service, and a view of it.
struct Followed {
  explicit Followed(const registry::KeyLayout& keys = registry::KeyLayout())
      : layout(keys),
        follow(std::make_shared<registry::detail::ServiceFollow>(
            service, layout, registry::RegistryConfig(), registry::Observer(),
            registry::detail::Home::strand(io.get_executor()))),
        state(std::make_shared<registry::detail::ViewState>(registry::ServiceFilter())),
        view(state) {
    follow->add(state);
  }
  registry::KeyValue pair(int number, std::int64_t revision, bool plain = false) const {
    registry::KeyValue pair;
    registry::ServiceInstance made = instance(number, revision);
    if (plain) made.metadata = {{"weight", "100"}};
    pair.key = layout.key_of(service, made.id);
    pair.value = encode(made);
    pair.mod_revision = revision;
    return pair;
  }
  /// In pages, as a store lists. The bytes of the values.
  std::size_t list(int count, bool plain = false) {
    std::size_t bytes = 0;
    follow->begin_list();
    for (int at = 0; at < count;) {
      registry::Page page;
      page.revision = 1;
      for (const int end = std::min(at + 1000, count); at < end; ++at) {
        page.items.push_back(pair(at, 1, plain));
        bytes += page.items.back().value.size();
      }
      page.more = at < count;
      follow->list_page(std::move(page));
    }
    follow->end_list(1);
    return bytes;
  }

  const registry::KeyLayout layout;
  asio::io_context io;
  const std::shared_ptr<registry::detail::ServiceFollow> follow;
  const std::shared_ptr<registry::detail::ViewState> state;
  const registry::ServiceView view;
};

enum class Reader { none, reads, keeps };  // after each change; `keeps`: until it has read the next list

void changes(benchmark::State& state, Reader reader, double budget) {
  constexpr int batch = 1000;
  Followed followed;
  followed.list(instances);
  std::int64_t revision = 1, wrong = 0;
  std::shared_ptr<const registry::ServiceSnapshot> kept;
  std::vector<registry::Batch> changes;
  while (state.KeepRunningBatch(batch)) {
    state.PauseTiming();
    changes.clear();
    for (int i = 0; i < batch; ++i) {
      registry::Batch& made = changes.emplace_back();
      made.head = made.through = ++revision;
      made.changes.emplace_back().kv = followed.pair(i % instances, revision);
    }
    std::int64_t expected = revision - batch;
    state.ResumeTiming();
    for (registry::Batch& change : changes) {
      followed.follow->apply(std::move(change));
      ++expected;
      if (reader == Reader::none) continue;
      auto list = followed.view.snapshot();
      if (list->revision != expected) ++wrong;
      if (reader == Reader::keeps) kept.swap(list);
    }
    if (followed.view.snapshot()->revision != revision) ++wrong;
  }
  if (budget > 0) state.counters["budget"] = budget;
  state.counters["wrong"] = static_cast<double>(wrong);
}

std::size_t allocated() {
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

void memory(benchmark::State& state, bool plain) {
  constexpr int count = 100'000;
  for (auto _ : state) {
    const std::size_t before = allocated();
    Followed followed;
    const std::size_t bytes = followed.list(count, plain);
    const auto list = followed.view.snapshot();
    const std::size_t after = allocated();
    state.counters["floor"] = static_cast<double>(bytes) / 1e6;
    state.counters["library"] = static_cast<double>(after - before) / 1e6;
    state.counters["ratio"] = static_cast<double>(after - before) / static_cast<double>(bytes);
    state.counters["wrong"] = list->instances.size() == count ? 0 : 1;
  }
  state.counters["budget"] = 4.5;
  state.SetLabel("MB");
}

// ---- The rows

void add_all() {
  using registry::ServiceView;
  const auto pick = [](auto& balancer, const ServiceView& view, int) { return balancer.pick(view); };
  const auto pick_key = [](auto& balancer, const ServiceView& view, int i) {
    return balancer.pick(view, static_cast<std::uint64_t>(i));
  };
  const auto begin = [](auto& balancer, const ServiceView& view, int) {
    return balancer.begin(view).instance();
  };
  benchmark::RegisterBenchmark("for comparison: copy of a shared_ptr", floor_row);
  for (const int threads : {1, 2})
    benchmark::RegisterBenchmark("snapshot()", snapshot_row)->Threads(threads)->MinTime(0.5)->Repetitions(7);
  add_row<registry::RoundRobinBalancer>("pick(), round robin", 0, false, pick);
  add_row<registry::RoundRobinBalancer>("snapshot() + pick(), round robin", 30, true, pick);
  add_row<registry::WeightedRoundRobinBalancer>("snapshot() + pick(), weighted", 60, true, pick);
  add_row<registry::LeastLoadedBalancer>("snapshot() + pick(), least loaded", 60, true, pick);
  add_row<registry::LeastLoadedBalancer>("begin() to the end, least loaded", 0, false, begin);
  add_row<registry::ConsistentHashBalancer>("pick(), consistent hash", 0, false, pick_key);
  const auto change_row = [](const char* name, Reader reader, double budget) {
    benchmark::RegisterBenchmark(name, changes, reader, budget)->MinTime(1);
  };
  change_row("a change in a view of 1,000: taken over", Reader::none, 0);
  change_row("a change in a view of 1,000: and read", Reader::reads, 5000);
  change_row("a change in a view of 1,000: and read, the list before is in use", Reader::keeps, 5000);
  benchmark::RegisterBenchmark("memory of a view, 1 metadata entry", memory, true)->Iterations(1);
  benchmark::RegisterBenchmark("memory of a view, 3 metadata entries", memory, false)->Iterations(1);
}

}  // namespace

int main(int argc, char** argv) try {
  const int result = bench::run_benchmarks(argc, argv, [] {
    world.emplace();
    add_all();
  });
  world.reset();
  return result;
} catch (const std::exception& error) {
  std::fprintf(stderr, "reads: %s\n", error.what());
  return 1;
}
