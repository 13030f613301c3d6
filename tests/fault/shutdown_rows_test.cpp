// The rows of the acceptance table about the end: closed, destroyed or left behind by a process that exits, with
// everything in flight and the way to etcd in every state.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <asio/detached.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/use_future.hpp>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <ostream>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rig/raw_etcd.hpp"
#include "rig/seed.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

const std::string service = "user-service";
const std::string prefix = key_of(service, "");
const std::string all_keys = "/genesis/";
const EtcdUser user{"svc", "svcpw", all_keys};
const std::string root_password = "rootpw";

/// What a loaded machine may add to a bound.
constexpr auto slack = 2s;

std::chrono::milliseconds since(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin);
}

EtcdOptions with_user() {
  EtcdOptions options;
  options.root_password = root_password;
  options.users = {user};
  return options;
}

etcd::ConnectorConfig login_config(const std::string& endpoint) {
  auto config = connector_config(endpoint);
  config.username = user.name;
  config.password = user.password;
  return config;
}

RegistryConfig closing_config(std::chrono::milliseconds close_timeout) {
  auto config = quick_config();
  config.close_timeout = close_timeout;
  return config;
}

/// Calls that run on a pool: how many are open, and the codes of those that have ended.
class Calls {
 public:
  template <class Executor, class T>
  void start(Executor& on, asio::awaitable<T> work) {
    ++state_->open;
    asio::co_spawn(on, code_of(std::move(work)), End(state_));
  }
  int open() const { return state_->open; }
  /// Not one of them ended with another code than these, besides success.
  std::string others_than(std::vector<std::error_code> expected) const {
    const std::lock_guard lock(state_->mutex);
    std::string text;
    for (const auto& code : state_->codes) {
      bool known = !code;
      for (const auto& each : expected) known = known || code == each;
      if (!known) text += code.message() + "; ";
    }
    return text;
  }

 private:
  struct State {
    std::atomic<int> open{0};
    std::mutex mutex;
    std::vector<std::error_code> codes;
  };
  // Counts as ended also when the context destroys it.
  class End {
   public:
    explicit End(std::shared_ptr<State> state)
        : state_(state.get(), [state](State* counted) { --counted->open; }) {}
    void operator()(std::exception_ptr, std::error_code code) const {
      const std::lock_guard lock(state_->mutex);
      state_->codes.push_back(code);
    }

   private:
    std::shared_ptr<State> state_;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

asio::awaitable<void> drain(Generator<ServiceEvent> events) {
  while (auto event = co_await events.next()) {
  }
}
asio::awaitable<void> drain_states(Generator<RegistrationEvent> events) {
  while (auto event = co_await events.next()) {
  }
}
asio::awaitable<void> drain_batches(Generator<Batch> batches) {
  while (auto batch = co_await batches.next()) {
  }
}
asio::awaitable<void> keep_view(asio::awaitable<ServiceView> subscribing) {
  ServiceView view = co_await std::move(subscribing);
  for (;;) co_await view.next();
}

enum class Fault { Pass, Swallow, Hold, Refuse, Pause };

/// A server with 5 MB of data, and a gate before it.
struct Place {
  Etcd etcd{with_user()};
  Gate gate{etcd.endpoint()};
  RawEtcd raw{{etcd.endpoint()}};
  double watchers_before = 0;

  Place() {
    REQUIRE(raw.login("root", root_password));
    for (int i = 0; i < 5; ++i)
      REQUIRE(raw.put("/genesis/big/" + std::to_string(i), std::string(1 << 20, 'x')));
    watchers_before = watchers();
  }
  double watchers() const { return etcd.metric("etcd_debugging_mvcc_watcher_total"); }
  void begin(Fault fault) {
    switch (fault) {
      case Fault::Pass: break;
      case Fault::Swallow: gate.swallow(); break;
      case Fault::Hold: gate.hold(); break;
      case Fault::Refuse: gate.refuse(); break;
      case Fault::Pause: etcd.pause(); break;
    }
  }
  void end(Fault fault) {
    if (fault == Fault::Pause) etcd.resume();
    gate.pass();
  }
};

/// Everything a program may have in flight.
struct Program {
  std::unique_ptr<asio::thread_pool> pool = std::make_unique<asio::thread_pool>(2);
  std::unique_ptr<etcd::Connector> store, newcomer;
  std::unique_ptr<Registry> reg, new_reg;
  Calls calls;

  explicit Program(Place& place, std::chrono::milliseconds close_timeout = 500ms)
      : store(std::make_unique<etcd::Connector>(pool->get_executor(), login_config(place.gate.endpoint()),
                                                observer())),
        newcomer(
            std::make_unique<etcd::Connector>(pool->get_executor(), login_config(place.gate.endpoint()))),
        reg(std::make_unique<Registry>(*store, closing_config(close_timeout), observer())),
        new_reg(std::make_unique<Registry>(*newcomer, closing_config(close_timeout))) {
    for (int i = 0; i < 3; ++i)
      rig::run(*pool, reg->register_instance(instance(service, "user-" + std::to_string(i)), 2s));
    calls.start(*pool, drain(reg->watch(service)));
    calls.start(*pool, drain_states(reg->registration_events()));
    calls.start(*pool, keep_view(reg->subscribe(service)));
    calls.start(*pool, drain_batches(store->watch(KeyRange("/genesis/big/0"), 1)));
  }

  /// Also on a Connector that has not logged in yet.
  void start() {
    etcdpb::RangeRequest range;
    range.set_key("/genesis/big/");
    range.set_range_end("/genesis/big0");
    etcdpb::PutRequest put;
    put.set_key("/genesis/put");
    put.set_value(std::string(100'000, 'y'));
    for (const auto& each :
         {std::make_pair(store.get(), reg.get()), std::make_pair(newcomer.get(), new_reg.get())}) {
      auto& [connector, registry] = each;
      const std::string id = registry == reg.get() ? "late-" : "new-";
      for (int i = 0; i < 3; ++i) {
        calls.start(*pool, connector->range(range));
        calls.start(*pool, connector->put(put));
        calls.start(*pool, registry->get_service(service));
        calls.start(*pool, registry->register_instance(instance(service, id + std::to_string(i)), 2s));
        calls.start(*pool, drain(registry->watch("service-" + std::to_string(i))));
        calls.start(*pool, keep_view(registry->subscribe("service-" + std::to_string(i))));
      }
      calls.start(*pool, registry->list_services());
      calls.start(*pool, connector->connect());
      calls.start(*pool, connector->lease_leases());
    }
    calls.start(*pool, reg->update_instance(instance(service, "user-0", "v2")));
    calls.start(*pool, reg->deregister("user-1"));
  }
};

/// Some moment between `start` and all answers.
void some_time(std::mt19937_64& random) {
  std::this_thread::sleep_for(std::chrono::microseconds(random() % 15000));
}

void check_close(Place& place, Fault fault, std::mt19937_64& random) {
  Program program(place);
  place.begin(fault);
  program.start();
  some_time(random);
  auto begin = Clock::now();
  rig::run(*program.pool, program.reg->close());
  CHECK(since(begin) < 500ms + 1s + slack);
  begin = Clock::now();
  rig::run(*program.pool, program.new_reg->close());
  CHECK(since(begin) < 500ms + 1s + slack);
  begin = Clock::now();
  rig::run(*program.pool, program.store->close());
  rig::run(*program.pool, program.newcomer->close());
  CHECK(since(begin) < 1s + slack);
  // Every caller has got an answer.
  CHECK(eventually([&] { return program.calls.open() == 0; }, 1s + slack, "no call is left"));
  CHECK(rig::run(*program.pool, code_of(program.reg->get_service(service))) == errc::closed);
  CHECK(rig::run(*program.pool, code_of(program.reg->register_instance(instance(service, "more")))) ==
        errc::closed);
  rig::run(*program.pool, program.reg->close());
  rig::run(*program.pool, program.store->close());
  if (fault == Fault::Pass) {
    // Reachable: taken away when close() returns, not by its TTL.
    CHECK(place.raw.list(prefix).empty());
  }
  place.end(fault);
}

void check_destruction(Place& place, Fault fault, std::mt19937_64& random) {
  Program program(place);
  place.begin(fault);
  program.start();
  some_time(random);
  const auto begin = Clock::now();
  if (random() % 2 == 0) {
    program.reg.reset();
    program.new_reg.reset();
    program.store.reset();
    program.newcomer.reset();
  } else {
    program.newcomer.reset();
    program.store.reset();
    program.new_reg.reset();
    program.reg.reset();
  }
  CHECK(since(begin) < 100ms + slack);  // at once: it waits for nobody
  CHECK(eventually([&] { return program.calls.open() == 0; }, 1s + slack, "no call is left"));
  place.end(fault);
}

void check_context_destruction(Place& place, Fault fault, std::mt19937_64& random) {
  Program program(place);
  place.begin(fault);
  program.start();
  some_time(random);
  const auto begin = Clock::now();
  program.pool.reset();
  CHECK(since(begin) < 1s + slack);
  CHECK(program.calls.open() == 0);
  // The handles are still good for being destroyed.
  program.new_reg.reset();
  program.store.reset();
  program.reg.reset();
  program.newcomer.reset();
  place.end(fault);
}

void everything_in_flight(Fault fault) {
  std::mt19937_64 random(test_seed("R9"));
  Place place;
  check_close(place, fault, random);  // first: what is destroyed leaves keys until the TTL
  check_destruction(place, fault, random);
  check_context_destruction(place, fault, random);
  // A TTL of 2 s, and what the gate or the server still held when it was let go.
  CHECK(eventually([&] { return place.raw.leases().empty(); }, 8s, "the leases are gone"));
  CHECK(eventually([&] { return place.raw.list(prefix).empty(); }, 1s, "the keys are gone"));
  CHECK(eventually([&] { return place.watchers() == place.watchers_before; }, 3s, "the watches are gone"));
  CHECK(place.raw.list("/genesis/big/").size() == 5);
}

}  // namespace

TEST_CASE("R9: destroyed and closed with everything in flight: etcd can be reached") {
  everything_in_flight(Fault::Pass);
}
TEST_CASE("R9: destroyed and closed with everything in flight: the way swallows everything") {
  everything_in_flight(Fault::Swallow);
}
TEST_CASE("R9: destroyed and closed with everything in flight: the way holds everything back") {
  everything_in_flight(Fault::Hold);
}
TEST_CASE("R9: destroyed and closed with everything in flight: connections are refused") {
  everything_in_flight(Fault::Refuse);
}
TEST_CASE("R9: destroyed and closed with everything in flight: etcd is paused") {
  everything_in_flight(Fault::Pause);
}

TEST_CASE("R9: close while register_instance is in its first commit: nothing is left, whatever came first") {
  std::mt19937_64 random(test_seed("R9 first commit"));
  Etcd etcd;
  RawEtcd raw({etcd.endpoint()});
  asio::thread_pool pool(2);
  etcd::Connector store(pool.get_executor(), connector_config(etcd.endpoint()));
  rig::run(pool, store.connect());
  int registered = 0, ended = 0;
  // How long a registration takes here, so that about half of them are done when close() comes.
  const auto before = Clock::now();
  {
    Registry reg(store, closing_config(2s));
    rig::run(pool, reg.register_instance(instance(service, "user-1"), 2s));
    rig::run(pool, reg.close());
  }
  const auto usual = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - before);
  for (int round = 0; round < 60; ++round) {
    Registry reg(store, closing_config(2s));
    Calls calls;
    std::atomic<bool> succeeded = false;
    auto add = [](Registry& on, std::atomic<bool>& done) -> asio::awaitable<void> {
      co_await on.register_instance(instance(service, "user-1"), 2s);
      done = true;
    };
    calls.start(pool, add(reg, succeeded));
    std::this_thread::sleep_for(usual * static_cast<int>(random() % 200) / 100);
    const auto begin = Clock::now();
    rig::run(pool, reg.close());
    REQUIRE(since(begin) < 1s + slack);  // etcd answers: there is no reason to use up close_timeout
    // Strictly: the revocation is applied, so a commit that comes behind it finds no lease.
    REQUIRE(raw.list(prefix).empty());
    REQUIRE(eventually([&] { return calls.open() == 0; }, 1s + slack, "register_instance has ended"));
    CHECK(calls.others_than({make_error_code(errc::closed)}) == "");
    ++(succeeded ? registered : ended);
  }
  CHECK(registered > 0);
  CHECK(ended > 0);
  CHECK(holds_for(300ms, [&] { return raw.list(prefix).empty(); }));
  // A grant that was under way may have been applied behind the close; it holds no key.
  CHECK(eventually([&] { return raw.leases().empty(); }, 5s, "the leases are gone"));
}

TEST_CASE("R9: close, the answer to the first commit held back: within close_timeout, and no key is left") {
  Etcd etcd;
  Gate gate(etcd.endpoint());
  RawEtcd raw({etcd.endpoint()});
  asio::thread_pool pool(2);
  etcd::Connector store(pool.get_executor(), connector_config(gate.endpoint()));
  Registry reg(store, closing_config(500ms));
  rig::run(pool, store.connect());
  Calls calls;
  SUBCASE("lost") {
    // The grant's answer comes, the commit's does not: let the grant through, then watch for the key.
    calls.start(pool, reg.register_instance(instance(service, "user-0"), 2s));
    REQUIRE(eventually([&] { return calls.open() == 0; }));
    gate.hold(Way::down);
    calls.start(pool, reg.register_instance(instance(service, "user-1"), 2s));
    REQUIRE(eventually([&] { return raw.list(key_of(service, "user-1")).size() == 1; }));
  }
  SUBCASE("the grant, too") {
    gate.hold(Way::down);
    calls.start(pool, reg.register_instance(instance(service, "user-1"), 2s));
    REQUIRE(eventually([&] { return raw.leases().size() == 1; }));
  }
  const auto begin = Clock::now();
  rig::run(pool, reg.close());
  CHECK(since(begin) < 500ms + 1s + slack);
  CHECK(eventually([&] { return calls.open() == 0; }, 1s + slack, "register_instance has ended"));
  CHECK(calls.others_than({make_error_code(errc::closed)}) == "");
  // Requests pass: what close() asked for was done, though nobody heard of it.
  CHECK(eventually([&] { return raw.list(prefix).empty() && raw.leases().empty(); }, 4s, "nothing is left"));
  gate.pass();
  CHECK(holds_for(500ms, [&] { return raw.list(prefix).empty(); }));
}

namespace {

void close_by_many(bool reachable) {
  Etcd etcd;
  Gate gate(etcd.endpoint());
  RawEtcd raw({etcd.endpoint()});
  asio::thread_pool pool(2);
  etcd::Connector store(pool.get_executor(), connector_config(gate.endpoint()));
  Registry reg(store, closing_config(500ms));
  EventLog log(pool, reg.watch(service));
  RegistrationLog states(pool, reg.registration_events());
  rig::run(pool, reg.register_instance(instance(service, "user-1"), 2s));
  CHECK(eventually([&] { return log.size() == 1; }));
  if (!reachable) gate.swallow();
  const auto close_all = [&](auto close, std::chrono::milliseconds bound) {
    std::atomic<int> returned{0};
    std::vector<std::thread> threads;
    const auto begin = Clock::now();
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        if (rig::run(pool, code_of(close()))) return;
        ++returned;
      });
    }
    for (auto& thread : threads) thread.join();
    CHECK(since(begin) < bound + slack);
    CHECK(returned == 8);
  };
  const auto close_registry = [&] { return reg.close(); };
  const auto close_store = [&] { return store.close(); };
  close_all(close_registry, 500ms + 1s);
  if (reachable) CHECK(raw.list(prefix).empty());
  CHECK(eventually([&] { return log.ended() && states.ended(); }, 1s + slack, "the generators have ended"));
  CHECK_FALSE(log.error());
  CHECK(states.all().back().state == RegistrationState::Closed);
  close_all(close_registry, 100ms);
  close_all(close_store, 1s);
  close_all(close_store, 100ms);
  close_all(close_registry, 100ms);
  CHECK(rig::run(pool, code_of(reg.get_service(service))) == errc::closed);
  CHECK(rig::run(pool, code_of(store.connect())) == errc::closed);
  CHECK(rig::run(pool, text_of(store.connect())).find("closed") != std::string::npos);
  auto after = reg.watch(service);
  CHECK(rig::run(pool, code_of(after.next())) == std::error_code());  // ended, no error
  CHECK(eventually([&] { return raw.list(prefix).empty(); }, 5s, "the key is gone"));
}

}  // namespace

TEST_CASE("R9: close twice, and from eight threads at once: all return in time") { close_by_many(true); }
TEST_CASE("R9: close twice, and from eight threads at once, etcd out of reach: all return in time") {
  close_by_many(false);
}

TEST_CASE(
    "R9: a close that is cancelled, or whose store is closed before it, ends; a second one completes it") {
  Etcd etcd;
  Gate gate(etcd.endpoint());
  RawEtcd raw({etcd.endpoint()});
  asio::thread_pool pool(2);
  etcd::Connector store(pool.get_executor(), connector_config(gate.endpoint()));
  Registry reg(store, closing_config(1s));
  EventLog log(pool, reg.watch(service));
  rig::run(pool, reg.register_instance(instance(service, "user-1"), 2s));
  gate.swallow();
  const auto begin = Clock::now();
  SUBCASE("cancelled") { CHECK_THROWS_AS(rig::run(pool, reg.close(), 100ms), TooLate); }
  SUBCASE("the store first") { rig::run(pool, store.close()); }
  rig::run(pool, reg.close());
  CHECK(since(begin) < 100ms + 1s + 1s + slack);
  CHECK(eventually([&] { return log.ended(); }, 1s + slack, "the watch has ended"));
  gate.pass();
  CHECK(eventually([&] { return raw.list(prefix).empty(); }, 5s, "the key is gone"));
}

// --- processes ------------------------------------------------------------------------------------------------

namespace {

constexpr int exit_code = 7;

[[noreturn]] void wait_for_the_end() {
  for (;;) ::pause();
}

/// How the child ends. By return it goes on to the end of main.
void leave(const std::string& how) {
  if (how == "exit") std::exit(exit_code);
  if (how == "quick_exit") std::quick_exit(exit_code);
  if (how == "_exit") ::_exit(exit_code);
  if (how == "SIGTERM") wait_for_the_end();
}

template <class Pool>
void work(Pool& pool, Registry& reg, const std::string& id) {
  asio::co_spawn(pool, drain(reg.watch(service)), asio::detached);
  asio::co_spawn(pool, drain_states(reg.registration_events()), asio::detached);
  asio::co_spawn(pool, keep_view(reg.subscribe(service)), asio::detached);
  auto registering = asio::co_spawn(pool, reg.register_instance(instance(service, id), 2s), asio::use_future);
  registering.get();
  for (int i = 0; i < 10; ++i) asio::co_spawn(pool, reg.get_service(service), asio::detached);
}

/// Runs a context on a thread until it is destroyed.
struct Runner {
  explicit Runner(asio::io_context& io) : io_(io), guard_(io.get_executor()), thread_([&io] { io.run(); }) {}
  ~Runner() {
    io_.stop();
    thread_.join();
  }
  asio::io_context& io_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::thread thread_;
};

void child(const std::string& storage, const std::string& how, const std::string& endpoint) {
  const std::string id = storage + "-" + how;
  const auto config = connector_config(endpoint);
  if (storage == "local") {
    asio::thread_pool pool(2);
    etcd::Connector store(pool.get_executor(), config);
    Registry reg(store, quick_config());
    work(pool, reg, id);
    leave(how);
  } else if (storage == "static") {
    static asio::thread_pool pool(2);
    static etcd::Connector store(pool.get_executor(), config);
    static Registry reg(store, quick_config());
    work(pool, reg, id);
    leave(how);
  } else if (storage == "static_io") {
    static asio::io_context io;
    static etcd::Connector store(io.get_executor(), config);
    static Registry reg(store, quick_config());
    static Runner runner(io);
    work(io, reg, id);
    leave(how);
  } else if (storage == "pool_first") {
    // Destroyed the other way round: the context first, the Registry last.
    static std::unique_ptr<Registry> reg;
    static std::unique_ptr<etcd::Connector> store;
    static std::unique_ptr<asio::thread_pool> pool;
    pool = std::make_unique<asio::thread_pool>(2);
    store = std::make_unique<etcd::Connector>(pool->get_executor(), config);
    reg = std::make_unique<Registry>(*store, quick_config());
    work(*pool, *reg, id);
    leave(how);
  } else {
    // Never destroyed: the threads run on until the process is gone.
    static auto* const pool = new asio::thread_pool(2);
    static auto* const store = new etcd::Connector(pool->get_executor(), config);
    static auto* const reg = new Registry(*store, quick_config());
    work(*pool, *reg, id);
    leave(how);
  }
}

const std::vector<std::string> storages{"local", "static", "static_io", "pool_first", "leaked"};

std::string env_or_empty(const char* name) {
  const char* const value = std::getenv(name);
  return value != nullptr ? value : "";
}

/// Starts this binary once for each storage, each registers and ends `how`; all of them within 2 s, with `code`.
void check_exit(const std::string& how, int code) {
  Etcd etcd;
  RawEtcd raw({etcd.endpoint()});
  TempDir dir;
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  struct Child {
    std::string id, output;
    Process process;
    Clock::time_point registered;
  };
  std::vector<Child> children;
  const Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  for (const auto& storage : storages) {
    Child& made = children.emplace_back();
    made.id = storage + "-" + how;
    made.output = dir / made.id;
    const Fd out(::open(made.output.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    made.process = Process({self, "--no-skip", "--test-case=exit child"},
                           {"REGISTRY_EXIT_CHILD=" + storage, "REGISTRY_EXIT_HOW=" + how,
                            "REGISTRY_EXIT_ENDPOINT=" + etcd.endpoint()},
                           null.get(), out.get(), out.get());
  }
  for (auto& each : children) {
    CAPTURE(each.id);
    CHECK(eventually([&] { return raw.list(prefix + each.id).size() == 1 || !each.process.running(); }, 15s,
                     each.id + " has registered"));
    if (how == "SIGTERM") each.process.signal(SIGTERM);
    each.registered = Clock::now();
  }
  for (auto& each : children) {
    const auto ended = each.process.wait(
        std::chrono::duration_cast<std::chrono::milliseconds>(each.registered + 2s + slack - Clock::now()));
    std::ifstream file(each.output);
    const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    CAPTURE(each.id);
    CAPTURE(text);
    REQUIRE(ended);
    CHECK(*ended == code);
  }
  // Nobody took the keys away: they go with their leases of 2 s.
  CHECK(
      eventually([&] { return raw.list(prefix).empty() && raw.leases().empty(); }, 5s, "the keys are gone"));
  CHECK(etcd.metric("etcd_debugging_mvcc_watcher_total") == 0);
}

}  // namespace

// Not a test: what the processes of the tests below run.
TEST_CASE("exit child" * doctest::skip()) {
  for (const int each : {SIGTERM, SIGSEGV, SIGABRT, SIGINT, SIGILL, SIGFPE}) ::signal(each, SIG_DFL);
  child(env_or_empty("REGISTRY_EXIT_CHILD"), env_or_empty("REGISTRY_EXIT_HOW"),
        env_or_empty("REGISTRY_EXIT_ENDPOINT"));
}

TEST_CASE("R9: a process returns from main without close: ends within 2 s, and its key with the TTL") {
  check_exit("return", 0);
}
TEST_CASE("R9: a process calls std::exit without close: ends within 2 s, and its key with the TTL") {
  check_exit("exit", exit_code);
}
TEST_CASE("R9: a process calls std::quick_exit without close: ends within 2 s, and its key with the TTL") {
  check_exit("quick_exit", exit_code);
}
TEST_CASE("R9: a process calls _exit without close: ends within 2 s, and its key with the TTL") {
  check_exit("_exit", exit_code);
}
TEST_CASE("R9: a process is ended by SIGTERM without close: ends within 2 s, and its key with the TTL") {
  check_exit("SIGTERM", 128 + SIGTERM);
}
