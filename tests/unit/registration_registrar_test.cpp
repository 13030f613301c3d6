// Registrations against a MemoryStore: shared leases, group commits, losses, displacement, removal, and an
// end in bounded time. Everything runs on two threads.
#include <doctest/doctest.h>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/post.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "registry/async/on.hpp"
#include "registry/registration/registrar.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/seed.hpp"

using namespace registry;
using detail::Home;
using detail::Registrar;
using namespace std::chrono_literals;

namespace {

/// A store across a network that counts calls and has faults.
class FaultyBackend final : public StoreBackend {
 public:
  explicit FaultyBackend(std::shared_ptr<StoreBackend> inner) : inner_(std::move(inner)) {}

  std::atomic<int> lists{0}, watches{0}, commits{0}, writes{0}, grants{0}, renewals{0}, revokes{0};
  std::atomic<bool> hangs{false};                         // nothing is answered
  std::atomic<bool> grant_unanswered{false};              // the next grant is granted, but not answered
  std::atomic<bool> refuses{false};                       // every commit, for want of permission
  std::atomic<bool> refuses_grants{false};                // for want of permission
  std::atomic<bool> no_commits{false}, no_grants{false};  // unavailable for these only
  std::atomic<int> lost_in_100{0};  // commits applied but not answered, or not applied and not answered

  void poison(std::string key) {
    const std::lock_guard lock(mutex_);
    poison_ = std::move(key);
  }
  void seed(unsigned value) { random_.seed(value); }
  /// The leases that were granted, in this order.
  std::vector<std::int64_t> granted() {
    const std::lock_guard lock(mutex_);
    return granted_;
  }

  asio::any_io_executor get_executor() const noexcept override { return inner_->get_executor(); }
  Limits limits() const noexcept override { return inner_->limits(); }
  Generator<Batch> watch(KeyRange range, std::int64_t from) override {
    ++watches;
    return inner_->watch(std::move(range), from);
  }
  void cancel() noexcept override { inner_->cancel(); }

  asio::awaitable<Page> list(ListQuery query) override {
    ++lists;
    co_await answer();
    co_return co_await inner_->list(std::move(query));
  }
  asio::awaitable<Committed> commit(std::vector<Write> batch) override {
    ++commits;
    writes += static_cast<int>(batch.size());
    co_await answer();
    if (refuses) detail::fail(errc::permission_denied);
    if (no_commits) detail::fail(errc::unavailable);
    const int fate = draw();
    if (fate < lost_in_100 / 2) detail::fail(errc::outcome_unknown);
    Committed committed = co_await inner_->commit(std::move(batch));
    if (fate < lost_in_100) detail::fail(errc::outcome_unknown);
    co_return committed;
  }
  asio::awaitable<Lease> grant(std::int64_t id, std::chrono::seconds ttl) override {
    ++grants;
    co_await answer();
    if (refuses_grants) detail::fail(errc::permission_denied);
    if (no_grants) detail::fail(errc::unavailable);
    const Lease lease = co_await inner_->grant(id, ttl);
    {
      const std::lock_guard lock(mutex_);
      granted_.push_back(lease.id);
    }
    if (grant_unanswered.exchange(false)) detail::fail(errc::outcome_unknown);
    co_return lease;
  }
  asio::awaitable<std::chrono::seconds> renew(std::int64_t id, std::chrono::milliseconds timeout) override {
    ++renewals;
    co_await answer();
    ListQuery query;
    {
      const std::lock_guard lock(mutex_);
      query.range = KeyRange(poison_);
    }
    if (!query.range.begin.empty()) {
      const Page page = co_await inner_->list(query);
      if (!page.items.empty() && page.items[0].lease == id) detail::fail(errc::permission_denied);
    }
    co_return co_await inner_->renew(id, timeout);
  }
  asio::awaitable<void> revoke(std::int64_t id) override {
    ++revokes;
    co_await answer();
    co_await inner_->revoke(id);
  }

 private:
  asio::awaitable<void> answer() {
    if (hangs) co_await detail::Signal().wait();
  }
  int draw() {
    const std::lock_guard lock(mutex_);
    return static_cast<int>(random_() % 100);
  }

  const std::shared_ptr<StoreBackend> inner_;
  std::mutex mutex_;
  std::string poison_;
  std::vector<std::int64_t> granted_;
  std::mt19937 random_;
};

std::string show(const RegistrationEvent& event) {
  static const char* const names[] = {"registered", "lost", "restored", "displaced", "closed"};
  std::string text = event.id + " " + names[static_cast<int>(event.state)];
  if (event.reason) text += " (" + event.reason.message() + ")";
  return text;
}

struct Log {
  std::mutex mutex;
  std::vector<std::string> lines;
  bool ended = false;

  std::vector<std::string> copy() {
    const std::lock_guard lock(mutex);
    return lines;
  }
};

asio::awaitable<void> collect(Generator<RegistrationEvent> events, std::shared_ptr<Log> log) {
  while (auto event = co_await events.next()) {
    const std::lock_guard lock(log->mutex);
    log->lines.push_back(show(*event));
  }
  const std::lock_guard lock(log->mutex);
  log->ended = true;
}

/// What a watcher sees of a key: "put on <lease>" or "delete".
asio::awaitable<void> collect_changes(Generator<Batch> batches, std::shared_ptr<Log> log) {
  while (auto batch = co_await batches.next()) {
    const std::lock_guard lock(log->mutex);
    for (const Change& change : batch->changes)
      log->lines.push_back(change.deleted ? "delete" : "put on " + std::to_string(change.kv.lease));
  }
}

bool eventually(const std::function<bool()>& holds, std::chrono::seconds limit = 20s) {
  const auto end = std::chrono::steady_clock::now() + limit;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(2ms);
  }
  return true;
}

/// A Registry's registration half. Declared behind the pool and the store it uses.
struct Side {
  Home home;
  std::shared_ptr<FaultyBackend> backend;
  std::shared_ptr<Registrar> registrar;
  asio::thread_pool& pool;

  Side(asio::thread_pool& threads, MemoryStore& store, RegistryConfig config)
      : home(Home::strand(threads.get_executor())),
        backend(std::make_shared<FaultyBackend>(store.backend())),
        registrar(std::make_shared<Registrar>(backend, KeyLayout(config.name_space, config.group), config,
                                              Observer(), home)),
        pool(threads) {}
  ~Side() {
    home.post([core = registrar] { core->cancel(); });
  }

  template <class T>
  std::future<T> start(asio::awaitable<T> work) {
    return asio::co_spawn(pool, detail::on(home, std::move(work)), asio::use_future);
  }
  std::future<Registration> add(ServiceInstance instance, std::chrono::seconds ttl = {}) {
    return start(Registrar::add(registrar, std::move(instance), ttl));
  }
  std::future<void> start_update(ServiceInstance instance, std::chrono::seconds ttl = {}) {
    return start(Registrar::update(registrar, std::move(instance), ttl));
  }
  void update(ServiceInstance instance, std::chrono::seconds ttl = {}) {
    start_update(std::move(instance), ttl).get();
  }
  void remove(std::string id) { start(Registrar::remove(registrar, std::move(id))).get(); }
  void close(std::chrono::milliseconds timeout = 3s) { start(Registrar::close(registrar, timeout)).get(); }
  std::shared_ptr<Log> events() {
    auto log = std::make_shared<Log>();
    asio::co_spawn(pool, collect(Registrar::events(registrar), log), asio::detached);
    return log;
  }
};

RegistryConfig quick() {
  RegistryConfig config;
  config.name_space = "/t";
  config.retry_interval = 5ms;
  config.max_retry_interval = 50ms;
  return config;
}

struct Rig {
  asio::thread_pool pool{2};
  std::unique_ptr<MemoryStore> store = std::make_unique<MemoryStore>(pool.get_executor());
  RegistryConfig config = quick();
  std::vector<std::unique_ptr<Side>> sides;

  Side& side() {
    sides.push_back(std::make_unique<Side>(pool, *store, config));
    return *sides.back();
  }
  ~Rig() {
    sides.clear();
    store.reset();
    pool.join();  // returns only when no coroutine is left
  }

  std::vector<KeyValue> all() {
    ListQuery query(KeyRange("/t/", "/t0"));
    return asio::co_spawn(pool, store->backend()->list(query), asio::use_future).get().items;
  }
  std::optional<KeyValue> at(const std::string& key) {
    for (auto& kv : all()) {
      if (kv.key == key) return kv;
    }
    return std::nullopt;
  }
  bool alive(std::int64_t lease) {
    return asio::co_spawn(pool, store->backend()->renew(lease, 1000ms), asio::use_future).get() != 0s;
  }
  /// What becomes of a key that is there, from now on.
  std::shared_ptr<Log> changes(const std::string& key) {
    auto log = std::make_shared<Log>();
    auto watch = store->backend()->watch(KeyRange(key), at(key)->mod_revision + 1);
    asio::co_spawn(pool, collect_changes(std::move(watch), log), asio::detached);
    return log;
  }
  std::int64_t foreign_lease() {
    return asio::co_spawn(pool, store->backend()->grant(0, 60s), asio::use_future).get().id;
  }
};

ServiceInstance instance(const std::string& id, const std::string& service = "s") {
  ServiceInstance result(service, id);
  result.endpoints = {"grpc://10.0.0.1:1"};
  return result;
}

template <class Work>
std::error_code error_of(Work&& work) {
  try {
    work();
  } catch (const std::system_error& error) {
    return error.code();
  }
  return {};
}

bool has(const std::shared_ptr<Log>& log, const std::string& line) {
  const auto lines = log->copy();
  return std::find(lines.begin(), lines.end(), line) != lines.end();
}

using Lines = std::vector<std::string>;

std::string put_on(std::int64_t lease) { return "put on " + std::to_string(lease); }

ServiceInstance version(ServiceInstance of, const std::string& text) {
  of.version = text;
  return of;
}

}  // namespace

TEST_CASE("registrar: an instance is stored on a lease, and gone after close") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const Registration receipt = side.add(instance("a")).get();
  const auto kv = rig.at("/t/s/a");
  REQUIRE(kv);
  CHECK(kv->lease == receipt.lease);
  CHECK(kv->mod_revision == receipt.revision);
  CHECK(kv->value == encode(instance("a")));
  CHECK(receipt.id == "a");
  CHECK(receipt.ttl == 30s);
  CHECK(error_of([&] { side.add(instance("a")).get(); }) == errc::already_registered);
  side.close();
  CHECK(rig.all().empty());
  CHECK(eventually([&] { return log->ended; }));
  CHECK(log->copy() == Lines{"a registered", "a closed"});
  CHECK(error_of([&] { side.add(instance("b")).get(); }) == errc::closed);
  CHECK(error_of([&] { side.remove("a"); }) == errc::closed);
  side.close();
}

TEST_CASE("registrar: bad arguments") {
  Rig rig;
  Side& side = rig.side();
  CHECK(error_of([&] { side.add(instance("a/b")).get(); }) == errc::invalid_argument);
  CHECK(error_of([&] { side.add(instance("a"), -1s).get(); }) == errc::invalid_argument);
  CHECK(error_of([&] { side.update(instance("a")); }) == errc::not_registered);
  CHECK(error_of([&] { side.remove("a"); }) == errc::not_registered);
  side.add(instance("a")).get();
  CHECK(error_of([&] { side.update(instance("a", "other")); }) == errc::invalid_argument);
}

TEST_CASE("registrar: a thousand registrations use one grant, one lease and few commits") {
  Rig rig;
  Side& side = rig.side();
  std::vector<std::future<Registration>> receipts;
  for (int i = 0; i < 1000; ++i) receipts.push_back(side.add(instance("i" + std::to_string(i))));
  const std::int64_t lease = receipts[0].get().lease;
  for (std::size_t i = 1; i < receipts.size(); ++i) CHECK(receipts[i].get().lease == lease);
  CHECK(rig.all().size() == 1000);
  CHECK(side.backend->grants == 1);
  CHECK(side.backend->writes == 1000);
  CHECK(side.backend->commits < 100);
  CHECK(side.backend->watches <= 2);  // the key of the first, then the service
  side.add(instance("one more")).get();
  CHECK(side.backend->grants == 2);
  side.close();
  CHECK(rig.all().empty());
}

TEST_CASE("registrar: different TTLs live on different leases, and short ones are renewed") {
  Rig rig;
  Side& side = rig.side();
  const auto brief = side.add(instance("a"), 2s).get();
  const auto lasting = side.add(instance("b"), 60s).get();
  CHECK(brief.lease != lasting.lease);
  CHECK(brief.ttl == 2s);
  CHECK(eventually([&] { return side.backend->renewals >= 4; }));  // longer than the TTL
  CHECK(rig.at("/t/s/a")->lease == brief.lease);
  CHECK(rig.at("/t/s/a")->mod_revision == brief.revision);
}

TEST_CASE("registrar: an expired lease is lost, then replaced, again and again") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  auto lease = side.add(instance("a")).get().lease;
  side.add(instance("b")).get();
  for (int round = 1; round <= 3; ++round) {
    rig.store->expire(lease);
    CHECK(eventually([&] { return log->copy().size() >= 2 + 4 * static_cast<std::size_t>(round); }));
    const auto a = rig.at("/t/s/a"), b = rig.at("/t/s/b");
    REQUIRE(a);
    REQUIRE(b);
    CHECK(a->lease != lease);
    lease = a->lease;
    CHECK(b->lease == lease);  // shared again
  }
  const auto lines = log->copy();
  CHECK(std::count(lines.begin(), lines.end(), "a restored") == 3);
  CHECK(std::count(lines.begin(), lines.end(), "b restored") == 3);
}

TEST_CASE("registrar: without a guard the renewal notices") {
  Rig rig;
  rig.config.guard_keys = false;
  Side& side = rig.side();
  const auto log = side.events();
  const auto receipt = side.add(instance("a"), 2s).get();
  CHECK(side.backend->watches == 0);
  rig.store->expire(receipt.lease);
  CHECK(eventually([&] { return has(log, "a restored"); }));
  CHECK(log->copy() == Lines{"a registered", "a lost (the lease expired or was revoked)", "a restored"});
  CHECK(rig.at("/t/s/a")->lease != receipt.lease);
}

TEST_CASE("registrar: a deleted key is restored under the same lease") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const auto receipt = side.add(instance("a")).get();
  for (std::size_t round = 1; round <= 3; ++round) {
    CHECK(rig.store->erase("/t/s/a"));
    CHECK(eventually([&] { return log->copy().size() == 1 + 2 * round; }));
  }
  CHECK(rig.at("/t/s/a")->lease == receipt.lease);
  CHECK(log->copy()[1] == "a lost (the key was deleted by someone else)");
  CHECK(log->copy()[2] == "a restored");
}

TEST_CASE("registrar: taken over is final, until registered again") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  side.add(instance("a")).get();
  side.add(instance("b")).get();
  const auto other = rig.foreign_lease();
  rig.store->put("/t/s/a", "theirs", other);
  CHECK(eventually([&] { return has(log, "a displaced (another owner has taken the key over)"); }));
  CHECK(error_of([&] { side.update(instance("a")); }) == errc::displaced);
  rig.store->erase("/t/s/b");  // the other one lives on
  CHECK(eventually([&] { return has(log, "b restored"); }));
  CHECK(rig.at("/t/s/a")->value == "theirs");
  rig.store->erase("/t/s/a");
  rig.store->erase("/t/s/b");
  CHECK(eventually([&] { return log->copy().size() == 7; }));
  CHECK_FALSE(rig.at("/t/s/a"));
  const auto receipt = side.add(instance("a")).get();
  CHECK(rig.at("/t/s/a")->lease == receipt.lease);
  rig.store->put("/t/s/a", "without a lease");
  CHECK(eventually(
      [&] { return has(log, "a displaced (the key exists without a lease and is never taken over)"); }));
  side.remove("a");
  CHECK(rig.at("/t/s/a")->value == "without a lease");
  CHECK(error_of([&] { side.add(instance("a")).get(); }) == errc::unleased_key);
  CHECK(rig.at("/t/s/a")->value == "without a lease");
}

TEST_CASE("registrar: the key of an earlier run is taken over, or is a conflict") {
  Rig rig;
  const auto other = rig.foreign_lease();
  rig.store->put("/t/s/a", "the earlier run", other);
  SUBCASE("taken over") {
    Side& side = rig.side();
    const auto receipt = side.add(instance("a")).get();
    CHECK(rig.at("/t/s/a")->lease == receipt.lease);
  }
  SUBCASE("conflict") {
    rig.config.on_conflict = ConflictPolicy::Fail;
    Side& side = rig.side();
    CHECK(error_of([&] { side.add(instance("a")).get(); }) == errc::conflict);
    CHECK(error_of([&] { side.remove("a"); }) == errc::not_registered);
    CHECK(rig.at("/t/s/a")->value == "the earlier run");
    CHECK(eventually([&] { return side.backend->revokes == 1; }));  // nobody needs the lease
    rig.store->expire(other);
    side.add(instance("a")).get();  // the id is free
  }
}

TEST_CASE("registrar: two with the same id: one take-over, no fight") {
  Rig rig;
  Side& first = rig.side();
  Side& second = rig.side();
  const auto log = first.events(), log2 = second.events();
  first.add(instance("a")).get();
  const auto receipt = second.add(instance("a")).get();
  CHECK(eventually([&] { return has(log, "a displaced (another owner has taken the key over)"); }));
  first.remove("a");  // not ours any more: left alone
  CHECK(rig.at("/t/s/a")->mod_revision == receipt.revision);
  first.close();
  CHECK(rig.at("/t/s/a")->mod_revision == receipt.revision);
  CHECK(log2->copy() == Lines{"a registered"});
}

TEST_CASE("registrar: an update keeps the lease") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const auto receipt = side.add(instance("a")).get();
  auto changed = instance("a");
  changed.version = "2";
  side.update(changed);
  const auto kv = rig.at("/t/s/a");
  CHECK(kv->value == encode(changed));
  CHECK(kv->lease == receipt.lease);
  CHECK(kv->mod_revision > receipt.revision);
  rig.store->erase("/t/s/a");
  CHECK(eventually([&] { return has(log, "a restored"); }));
  CHECK(rig.at("/t/s/a")->value == encode(changed));
}

TEST_CASE("registrar: an update that the store refuses throws, and what was registered before stays") {
  Rig rig;
  Side& side = rig.side();
  const Registration receipt = side.add(instance("a")).get();
  const auto before = rig.at("/t/s/a");
  ServiceInstance changed = instance("a");
  changed.version = "v2";
  side.backend->refuses = true;
  CHECK(error_of([&] { side.update(changed); }) == errc::permission_denied);
  CHECK(rig.at("/t/s/a")->value == before->value);
  side.backend->refuses = false;
  side.update(changed);
  CHECK(rig.at("/t/s/a")->value == encode(changed));
  CHECK(rig.at("/t/s/a")->lease == receipt.lease);
}

TEST_CASE(
    "registrar: another TTL moves the key to another lease by one write, and the old one goes with its last "
    "key") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const auto first = side.add(instance("a"), 30s).get();
  side.add(instance("b"), 30s).get();
  const auto changes = rig.changes("/t/s/a"), changes_of_b = rig.changes("/t/s/b");
  side.update(version(instance("a"), "2"), 60s);
  const auto moved = *rig.at("/t/s/a");
  CHECK(moved.lease != first.lease);
  CHECK(moved.value == encode(version(instance("a"), "2")));
  CHECK(rig.alive(first.lease));                  // b is on it
  side.update(version(instance("a"), "2"), 60s);  // nothing to do
  side.update(version(instance("a"), "3"));       // the TTL stays
  CHECK(rig.at("/t/s/a")->lease == moved.lease);
  side.update(instance("b"), 60s);
  CHECK(rig.at("/t/s/b")->lease == moved.lease);  // shared again
  CHECK(eventually([&] { return !rig.alive(first.lease); }));
  CHECK(side.backend->grants == 2);
  CHECK(side.backend->revokes == 1);
  CHECK(eventually([&] { return changes->copy().size() == 2 && changes_of_b->copy().size() == 1; }));
  CHECK(changes->copy() == Lines{put_on(moved.lease), put_on(moved.lease)});
  CHECK(changes_of_b->copy() == Lines{put_on(moved.lease)});
  CHECK(log->copy() == Lines{"a registered", "b registered"});
  CHECK(error_of([&] { side.update(instance("a"), -1s); }) == errc::invalid_argument);
}

TEST_CASE("registrar: another TTL while no lease can be had: the key stays where it is, and is moved later") {
  Rig rig;
  Side& side = rig.side();
  const auto first = side.add(instance("a"), 2s).get();
  const auto changes = rig.changes("/t/s/a");
  side.backend->no_grants = true;
  const int renewals = side.backend->renewals;
  auto update = side.start_update(instance("a"), 60s);
  CHECK(eventually([&] { return side.backend->renewals > renewals + 4; }));  // longer than the old TTL
  CHECK(changes->copy().empty());
  SUBCASE("there is one again") {
    side.backend->no_grants = false;
    CHECK_NOTHROW(update.get());
  }
  SUBCASE("that may be long after the caller was told") {
    CHECK(error_of([&] { update.get(); }) == errc::unavailable);
    side.backend->no_grants = false;
  }
  CHECK(eventually([&] { return rig.at("/t/s/a")->lease != first.lease && !rig.alive(first.lease); }));
  CHECK(changes->copy() == Lines{put_on(rig.at("/t/s/a")->lease)});
}

TEST_CASE("registrar: another TTL and back, before there is a lease of it: nothing is written") {
  Rig rig;
  Side& side = rig.side();
  const auto first = side.add(instance("a"), 30s).get();
  side.backend->no_grants = true;
  auto there = side.start_update(instance("a"), 60s);
  CHECK(eventually([&] { return side.backend->grants > 1; }));
  auto back = side.start_update(instance("a"), 30s);
  CHECK_NOTHROW(there.get());
  CHECK_NOTHROW(back.get());
  CHECK(rig.at("/t/s/a")->mod_revision == first.revision);
  side.backend->no_grants = false;
  side.update(version(instance("a"), "2"));
  CHECK(rig.at("/t/s/a")->lease == first.lease);
}

TEST_CASE("registrar: another TTL that the store refuses changes nothing") {
  Rig rig;
  Side& side = rig.side();
  const auto first = side.add(instance("a"), 30s).get();
  const auto before = rig.at("/t/s/a");
  const auto change = version(instance("a"), "2");
  SUBCASE("it grants no lease") {
    side.backend->refuses_grants = true;
    CHECK(error_of([&] { side.update(change, 60s); }) == errc::permission_denied);
    side.backend->refuses_grants = false;
  }
  SUBCASE("it takes no write") {
    side.backend->refuses = true;
    CHECK(error_of([&] { side.update(change, 60s); }) == errc::permission_denied);
    side.backend->refuses = false;
    const auto granted = side.backend->granted();
    REQUIRE(granted.size() == 2);
    CHECK(eventually([&] { return !rig.alive(granted[1]); }));  // nobody needs it
  }
  CHECK(rig.at("/t/s/a")->mod_revision == before->mod_revision);
  side.update(change);
  CHECK(rig.at("/t/s/a")->value == encode(change));
  CHECK(rig.at("/t/s/a")->lease == first.lease);
  CHECK(rig.alive(first.lease));
}

TEST_CASE("registrar: another TTL, and what goes wrong while the key is moved") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const auto first = side.add(instance("a"), 30s).get();
  const auto changes = rig.changes("/t/s/a");
  side.backend->no_commits = true;
  auto update = side.start_update(instance("a"), 60s);
  CHECK(eventually([&] { return side.backend->granted().size() == 2 && side.backend->commits > 3; }));
  const std::int64_t second = side.backend->granted().at(1);
  SUBCASE("the new lease is lost: the next one is taken, and the key is there all the time") {
    rig.store->expire(second);
    side.backend->no_commits = false;
    CHECK_NOTHROW(update.get());
    const auto lease = rig.at("/t/s/a")->lease;
    CHECK(lease != first.lease);
    CHECK(lease != second);
    CHECK(eventually([&] { return changes->copy() == Lines{put_on(lease)}; }));
    CHECK(log->copy() == Lines{"a registered"});
    CHECK(eventually([&] { return !rig.alive(first.lease); }));
  }
  SUBCASE("the old lease is lost: registered again under the new one") {
    rig.store->expire(first.lease);
    CHECK(eventually([&] { return log->copy().size() == 2; }));
    side.backend->no_commits = false;
    CHECK_NOTHROW(update.get());
    CHECK(eventually([&] { return has(log, "a restored"); }));
    CHECK(changes->copy() == Lines{"delete", put_on(second)});
  }
  SUBCASE("both are lost") {
    rig.store->expire(first.lease);
    rig.store->expire(second);
    side.backend->no_commits = false;
    CHECK_NOTHROW(update.get());
    CHECK(eventually([&] { return has(log, "a restored"); }));
    CHECK(rig.alive(rig.at("/t/s/a")->lease));
  }
  SUBCASE("taken over: both leases go") {
    rig.store->put("/t/s/a", "theirs", rig.foreign_lease());
    CHECK(error_of([&] { update.get(); }) == errc::displaced);
    CHECK(eventually([&] { return !rig.alive(first.lease) && !rig.alive(second); }));
    side.backend->no_commits = false;
    CHECK(rig.at("/t/s/a")->value == "theirs");
    const auto again = side.add(instance("a"), 60s).get();
    CHECK(rig.at("/t/s/a")->lease == again.lease);
    CHECK(again.ttl == 60s);
  }
  SUBCASE("deregistered: key and leases go") {
    auto removed = side.start(Registrar::remove(side.registrar, "a"));
    CHECK(error_of([&] { update.get(); }) == errc::not_registered);
    side.backend->no_commits = false;
    CHECK_NOTHROW(removed.get());
    CHECK_FALSE(rig.at("/t/s/a"));
    CHECK(eventually([&] { return !rig.alive(first.lease) && !rig.alive(second); }));
  }
  SUBCASE("closed") {
    side.close();
    CHECK(error_of([&] { update.get(); }) == errc::closed);
    CHECK_FALSE(rig.at("/t/s/a"));
    CHECK_FALSE(rig.alive(first.lease));
    CHECK_FALSE(rig.alive(second));
  }
}

TEST_CASE("registrar: registered again with another TTL while the removal is under way") {
  Rig rig;
  Side& side = rig.side();
  const auto first = side.add(instance("a"), 30s).get();
  side.backend->no_commits = true;
  auto removed = side.start(Registrar::remove(side.registrar, "a"));
  CHECK(eventually([&] { return side.backend->commits > 2; }));
  auto adding = side.add(instance("a"), 60s);
  side.backend->no_commits = false;
  const auto second = adding.get();
  CHECK_NOTHROW(removed.get());
  CHECK(second.lease != first.lease);
  CHECK(second.ttl == 60s);
  CHECK(rig.at("/t/s/a")->lease == second.lease);
  CHECK(eventually([&] { return !rig.alive(first.lease); }));
}

TEST_CASE(
    "registrar: TTLs that change while commits are lost or not answered: no delete, and no lease is left "
    "over") {
  const auto seed = static_cast<unsigned>(rig::test_seed("registrar"));
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const std::vector<std::string> ids{"a", "b", "c"};
  for (const auto& id : ids) side.add(instance(id), 30s).get();
  std::vector<std::shared_ptr<Log>> changes;
  for (const auto& id : ids) changes.push_back(rig.changes("/t/s/" + id));
  side.backend->seed(seed);
  side.backend->lost_in_100 = 40;
  std::mt19937 random(seed);
  std::vector<std::future<void>> updates;
  for (int round = 0; round < 200; ++round) {
    const auto change = version(instance(ids[random() % 3]), std::to_string(random() % 3));
    updates.push_back(side.start_update(change, 30s * (1 + random() % 3)));
    if (random() % 4 == 0) updates.back().wait();
  }
  for (auto& update : updates) CHECK_NOTHROW(update.get());
  side.backend->lost_in_100 = 0;
  const auto leases_left = [&] {
    std::set<std::int64_t> used;
    for (const auto& kv : rig.all()) used.insert(kv.lease);
    std::set<std::int64_t> left;
    for (const auto lease : side.backend->granted()) {
      if (rig.alive(lease)) left.insert(lease);
    }
    return left == used;
  };
  CHECK(eventually(leases_left));
  for (const auto& each : changes) {
    const auto lines = each->copy();
    CHECK_FALSE(lines.empty());
    CHECK(std::count(lines.begin(), lines.end(), "delete") == 0);
  }
  CHECK(log->copy().size() == 3);  // nothing was lost
}

TEST_CASE("registrar: closed by several at once, all of them return") {
  Rig rig;
  Side& side = rig.side();
  side.add(instance("a")).get();
  std::vector<std::future<void>> closers;
  for (int i = 0; i < 4; ++i) closers.push_back(side.start(Registrar::close(side.registrar, 3s)));
  for (auto& closer : closers) closer.get();
  CHECK(rig.all().empty());
}

TEST_CASE("registrar: deregistering removes our key only, and the lease with the last one") {
  Rig rig;
  Side& side = rig.side();
  const auto receipt = side.add(instance("a")).get();
  side.add(instance("b")).get();
  side.remove("a");
  CHECK_FALSE(rig.at("/t/s/a"));
  CHECK(rig.at("/t/s/b"));
  CHECK(side.backend->revokes == 0);
  side.add(instance("a")).get();
  rig.store->put("/t/s/a", "theirs", rig.foreign_lease());
  side.remove("a");
  CHECK(rig.at("/t/s/a")->value == "theirs");
  side.remove("b");
  CHECK_FALSE(rig.at("/t/s/b"));
  CHECK(eventually([&] { return side.backend->revokes == 1; }));
  const auto left = [&] { return side.start(rig.store->backend()->renew(receipt.lease, 1000ms)).get(); };
  CHECK(eventually([&] { return left() == 0s; }));
}

TEST_CASE("registrar: a store that is away for a while") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const auto receipt = side.add(instance("a"), 2s).get();
  rig.store->set_unavailable(true);
  auto changed = instance("a");
  changed.version = "2";
  auto update = side.start_update(changed);
  CHECK(eventually([&] { return has(log, "a lost (the lease expired or was revoked)"); }));
  rig.store->set_unavailable(false);
  update.get();  // stored under the new lease
  CHECK(eventually([&] { return has(log, "a restored"); }));
  CHECK(rig.at("/t/s/a")->value == encode(changed));
  CHECK(rig.at("/t/s/a")->lease != receipt.lease);
}

TEST_CASE("registrar: registering without a store fails with the reason, and leaves nothing behind") {
  Rig rig;
  Side& side = rig.side();
  rig.store->set_unavailable(true);
  CHECK(error_of([&] { side.add(instance("a")).get(); }) == errc::unavailable);
  rig.store->set_unavailable(false);
  CHECK(error_of([&] { side.remove("a"); }) == errc::not_registered);
  const auto receipt = side.add(instance("a")).get();
  CHECK(rig.at("/t/s/a")->mod_revision == receipt.revision);
}

TEST_CASE("registrar: deregistering without a store fails in time; the key goes when the store is back") {
  Rig rig;
  Side& side = rig.side();
  side.add(instance("a")).get();
  side.add(instance("b")).get();
  rig.store->set_unavailable(true);
  CHECK(error_of([&] { side.remove("a"); }) == errc::unavailable);
  rig.store->set_unavailable(false);
  CHECK(eventually([&] { return !rig.at("/t/s/a"); }));
  CHECK(rig.at("/t/s/b"));
}

TEST_CASE("registrar: close returns in time when nothing is answered") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  side.add(instance("a")).get();
  side.backend->hangs = true;
  auto adding = side.add(instance("b", "t"));
  rig.store->erase("/t/s/a");
  CHECK(eventually([&] { return log->copy().size() == 2; }));
  side.close(100ms);
  CHECK(error_of([&] { adding.get(); }) == errc::closed);
  CHECK(eventually([&] { return log->ended; }));
  CHECK(log->copy().back() == "a closed");
}

TEST_CASE("registrar: an unanswered grant is not granted twice") {
  Rig rig;
  Side& side = rig.side();
  side.backend->grant_unanswered = true;
  const auto receipt = side.add(instance("a")).get();
  CHECK(side.backend->grants == 2);
  CHECK(side.backend->renewals == 1);  // to learn the TTL
  CHECK(receipt.ttl == 30s);
  CHECK(rig.at("/t/s/a")->lease == receipt.lease);
}

TEST_CASE("registrar: cancelling a registration takes it back") {
  Rig rig;
  Side& side = rig.side();
  side.backend->hangs = true;
  const auto caller = asio::make_strand(rig.pool);  // a signal is emitted where its coroutine runs
  asio::cancellation_signal cancel;
  std::promise<std::error_code> ended;
  asio::co_spawn(caller, detail::on(side.home, Registrar::add(side.registrar, instance("a"), 0s)),
                 asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr error, Registration) {
                   ended.set_value(error_of([&] {
                     if (error) std::rethrow_exception(error);
                   }));
                 }));
  CHECK(eventually([&] { return side.backend->grants == 1; }));
  asio::post(caller, [&] { cancel.emit(asio::cancellation_type::terminal); });
  CHECK(ended.get_future().get() == asio::error::operation_aborted);
  CHECK(error_of([&] { side.remove("a"); }) == errc::not_registered);
}

TEST_CASE("registrar: a key that may not be written spoils its lease for nobody else") {
  Rig rig;
  Side& side = rig.side();
  const auto log = side.events();
  const int count = 8;
  for (int i = 0; i < count; ++i) side.add(instance("i" + std::to_string(i)), 2s).get();
  const auto lease = rig.at("/t/s/i3")->lease;
  side.backend->poison("/t/s/i3");
  // Alone in the end, it is lost with its lease; the others have moved without a loss.
  CHECK(eventually([&] { return has(log, "i3 lost (permission denied)"); }));
  for (const auto& line : log->copy())
    CHECK((line.find("lost") == std::string::npos || line.starts_with("i3")));
  for (int i = 0; i < count; ++i) {
    const auto kv = rig.at("/t/s/i" + std::to_string(i));
    if (i == 3) continue;
    REQUIRE(kv);
    CHECK(kv->lease != lease);
  }
}

TEST_CASE("registrar: events: current states first, for every consumer") {
  Rig rig;
  Side& side = rig.side();
  side.add(instance("a")).get();
  side.add(instance("b")).get();
  const auto log = side.events(), log2 = side.events();
  CHECK(eventually([&] { return log->copy().size() == 2 && log2->copy().size() == 2; }));
  CHECK(log->copy() == Lines{"a registered", "b registered"});
  side.remove("a");
  CHECK(eventually([&] { return has(log, "a closed") && has(log2, "a closed"); }));
  const auto log3 = side.events();
  CHECK(eventually([&] { return log3->copy() == Lines{"b registered"}; }));
}

TEST_CASE("registrar: a slow consumer gets the newest event of each id") {
  Rig rig;
  Side& side = rig.side();
  auto events = Registrar::events(side.registrar);
  (void)events.try_next();  // joins
  side.add(instance("a")).get();
  for (int i = 0; i < 700; ++i) {
    side.add(instance("b")).get();
    side.remove("b");
  }
  int seen = 0;
  bool a = false;
  while (auto event = events.try_next()) {
    ++seen;
    a = a || show(*event) == "a registered";
  }
  CHECK(seen <= 1024);
  CHECK(a);
}

TEST_CASE(
    "registrar: commits that are lost or not answered: one key each, no conflict with ourselves, no ghosts") {
  const auto seed = static_cast<unsigned>(rig::test_seed("registrar"));
  Rig rig;
  rig.config.on_conflict = ConflictPolicy::Fail;
  Side& side = rig.side();
  side.backend->seed(seed);
  side.backend->lost_in_100 = 40;
  const auto log = side.events();
  const int count = 40;
  std::mt19937 random(seed);
  std::vector<std::future<Registration>> receipts;
  for (int i = 0; i < count; ++i) receipts.push_back(side.add(instance("i" + std::to_string(i))));
  for (auto& receipt : receipts) CHECK_NOTHROW(receipt.get());
  std::vector<bool> there(count, true);
  for (int round = 0; round < 150; ++round) {
    const int i = static_cast<int>(random() % count);
    const std::string id = "i" + std::to_string(i);
    if (there[i] && random() % 3 == 0) {
      auto changed = instance(id);
      changed.version = std::to_string(round);
      CHECK_NOTHROW(side.update(changed));
    } else if (there[i]) {
      CHECK_NOTHROW(side.remove(id));
      there[i] = false;
    } else {
      CHECK_NOTHROW(side.add(instance(id)).get());
      there[i] = true;
    }
    if (round % 40 == 39) rig.store->expire(rig.at("/t/s/" + id) ? rig.at("/t/s/" + id)->lease : 0);
  }
  side.backend->lost_in_100 = 0;
  const auto agrees = [&] {
    for (int i = 0; i < count; ++i) {
      if (rig.at("/t/s/i" + std::to_string(i)).has_value() != there[i]) return false;
    }
    return true;
  };
  CHECK(eventually(agrees));
  for (const auto& line : log->copy()) CHECK(line.find("displaced") == std::string::npos);
  side.close();
  CHECK(rig.all().empty());
}

TEST_CASE("registrar: destroyed in any order") {
  SUBCASE("the context first") {
    std::shared_ptr<Registrar> registrar;
    Home home;
    std::optional<Generator<RegistrationEvent>> events;
    {
      asio::thread_pool pool(2);
      MemoryStore store(pool.get_executor());
      home = Home::strand(pool.get_executor());
      registrar = std::make_shared<Registrar>(store.backend(), KeyLayout("/t"), quick(), Observer(), home);
      events = Registrar::events(registrar);
      asio::co_spawn(pool, detail::on(home, Registrar::add(registrar, instance("a"), 0s)), asio::use_future)
          .get();
      (void)events->try_next();
    }
    CHECK_FALSE(home.post([] {}));
  }
  SUBCASE("the store first") {
    Rig rig;
    Side& side = rig.side();
    const auto log = side.events();
    side.add(instance("a")).get();
    rig.store.reset();
    CHECK(eventually([&] { return has(log, "a closed"); }));
    CHECK(error_of([&] { side.add(instance("b")).get(); }) == errc::closed);
    side.close();
  }
}
