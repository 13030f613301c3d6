// serve() with real servers, signals and clients: the order of a server's life, what may change in it, and every way in
// which it ends.
#include <doctest/doctest.h>

#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <asio/strand.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <future>
#include <memory>
#include <mutex>
#include <ostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "registry/async/mailbox.hpp"
#include "registry/rpc/serve.hpp"
#include "rig/net.hpp"
#include "rig/process.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

namespace {

/// "slow" is answered after 600 ms; "endless" when the call is cancelled.
class Hello final : public greeter::Greeter::Service {
 public:
  std::atomic<int> begun{0}, cancelled{0};

 private:
  grpc::Status SayHello(grpc::ServerContext* context, const greeter::HelloRequest* request,
                        greeter::HelloReply* reply) override {
    ++begun;
    if (request->name() == "slow") std::this_thread::sleep_for(600ms);
    while (request->name() == "endless" && !context->IsCancelled()) std::this_thread::sleep_for(2ms);
    if (context->IsCancelled()) ++cancelled;
    reply->set_message("hello " + request->name());
    return grpc::Status::OK;
  }
};

grpc::Status say(const std::string& endpoint, const std::string& name) {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  const auto channel = grpc::CreateCustomChannel(endpoint, grpc::InsecureChannelCredentials(), arguments);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 10s);
  greeter::HelloRequest request;
  greeter::HelloReply reply;
  request.set_name(name);
  return greeter::Greeter::NewStub(channel)->SayHello(&context, request, &reply);
}

ServeConfig config_of(const std::string& id = "greeter-1", const std::string& address = "127.0.0.1:0") {
  ServeConfig config(ServiceInstance("greeter", id), address);
  config.signals = {SIGUSR1};
  config.drain_delay = 300ms;
  config.drain_timeout = 5s;
  config.observer = observer();
  return config;
}

/// A serve() that runs on a pool.
class Served {
 public:
  Served(asio::thread_pool& pool, Registry& reg, ServeConfig config, grpc::Service* service,
         Generator<ServeChange> changes = Generator<ServeChange>())
      : strand_(asio::make_strand(pool)) {
    builder_.RegisterService(service);
    const auto note = config.on_registered;
    config.on_registered = [this, note](const Registration& registration, int port) {
      port_ = port;
      if (note) note(registration, port);
    };
    auto end = [this](std::exception_ptr error) { promise_.set_value(error); };
    asio::co_spawn(strand_, serve(reg, builder_, std::move(config), std::move(changes)),
                   asio::bind_cancellation_slot(cancel_.slot(), std::move(end)));
  }
  ~Served() {
    if (ended_.valid()) wait(10s);
  }

  bool registered() const { return port_ != 0; }
  std::string endpoint() const { return "127.0.0.1:" + std::to_string(port_); }
  void cancel() {
    asio::post(strand_, [this] { cancel_.emit(asio::cancellation_type::terminal); });
  }
  bool over(std::chrono::milliseconds limit = 0ms) {
    return ended_.wait_for(limit) == std::future_status::ready;
  }
  /// Throws what serve() throws.
  void wait(std::chrono::milliseconds limit = 10s) {
    if (!over(limit)) throw TooLate();
    if (const auto error = ended_.get()) std::rethrow_exception(error);
  }
  std::error_code code() {
    try {
      wait();
    } catch (const std::system_error& error) {
      text = error.what();
      return error.code();
    }
    return std::error_code();
  }
  std::string text;

 private:
  asio::strand<asio::thread_pool::executor_type> strand_;
  grpc::ServerBuilder builder_;
  asio::cancellation_signal cancel_;
  std::promise<std::exception_ptr> promise_;
  std::future<std::exception_ptr> ended_ = promise_.get_future();
  std::atomic<int> port_{0};
};

/// Keeps what is logged.
class Lines : public Logger {
 public:
  void log(LogLevel level, std::string_view text) noexcept override {
    static const char* const names[] = {"debug", "info", "warning", "error"};
    const std::lock_guard lock(mutex_);
    all_.push_back(names[static_cast<int>(level)] + (": " + std::string(text)));
  }
  std::vector<std::string> all() const {
    const std::lock_guard lock(mutex_);
    return all_;
  }
  bool has(const std::string& part) const {
    for (const auto& line : all()) {
      if (line.find(part) != std::string::npos) return true;
    }
    return false;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> all_;
};

using Changes = registry::detail::Mailbox<ServeChange>;

ServeChange change_of(const std::string& version, const std::string& weight = "1") {
  ServeChange change(ServiceInstance("greeter", "greeter-1"));
  change.instance.version = version;
  change.instance.metadata["weight"] = weight;
  return change;
}

struct ServeWorld : MemoryWorld {
  ServeWorld() : MemoryWorld(quick_config(), 3) {}
  Hello hello;

  std::vector<ServiceInstance> list() { return run(reg.get_service("greeter")); }
};

void signal_self(int number) { ::kill(::getpid(), number); }

}  // namespace

TEST_CASE("serve: listen, register, signal, deregister, drain, stop: in this order") {
  ServeWorld world;
  EventLog log(world.pool, world.reg.watch("greeter"));
  std::atomic<bool> answered_when_registered{false};
  auto config = config_of();
  config.ttl = 7s;
  config.on_registered = [&](const Registration& registration, int port) {
    CHECK(registration.id == "greeter-1");
    CHECK(registration.ttl == 7s);
    answered_when_registered = say("127.0.0.1:" + std::to_string(port), "early").ok();
  };
  Served served(world.pool, world.reg, config, &world.hello);
  CHECK(eventually([&] { return served.registered() && log.size() == 1; }, "registered"));
  const auto events = log.all();
  CHECK(events.at(0).service.endpoints == std::vector<std::string>{"grpc://" + served.endpoint()});
  CHECK(eventually([&] { return answered_when_registered.load(); }, "it answered in on_registered"));

  auto slow = std::async(std::launch::async, [&] { return say(served.endpoint(), "slow"); });
  CHECK(eventually([&] { return world.hello.begun == 2; }, "the slow call runs"));
  const auto start = Clock::now();
  signal_self(SIGUSR1);
  CHECK(eventually([&] { return log.size() == 2; }, "deregistered"));
  CHECK(log.all().at(1).type == EventType::Delete);
  CHECK(say(served.endpoint(), "late").ok());  // clients have not all heard of it
  CHECK(Clock::now() - start < 300ms);
  CHECK_FALSE(served.over());
  served.wait();
  CHECK(Clock::now() - start >= 300ms);  // drain_delay
  CHECK(Clock::now() - start < 3s);      // not drain_timeout
  CHECK(slow.get().ok());
  CHECK(world.hello.cancelled == 0);
  CHECK(say(served.endpoint(), "too late").error_code() == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("serve: cancellation deregisters and drains, too; a second one ends at once") {
  for (const bool twice : {false, true}) {
    CAPTURE(twice);
    ServeWorld world;
    auto config = config_of();
    config.signals.clear();
    config.drain_delay = twice ? 20s : 100ms;
    Served served(world.pool, world.reg, config, &world.hello);
    CHECK(eventually([&] { return served.registered(); }, "registered"));
    served.cancel();
    CHECK(eventually([&] { return world.list().empty(); }, "deregistered"));
    if (twice) {
      CHECK_FALSE(served.over(100ms));
      served.cancel();
    }
    CHECK(served.over(2s));
    CHECK(served.code() == std::error_code(asio::error::operation_aborted));
  }
}

TEST_CASE("serve: calls that outlast drain_timeout are cancelled") {
  ServeWorld world;
  auto config = config_of();
  config.drain_delay = 0ms;
  config.drain_timeout = 300ms;
  Served served(world.pool, world.reg, config, &world.hello);
  CHECK(eventually([&] { return served.registered(); }, "registered"));
  auto call = std::async(std::launch::async, [&] { return say(served.endpoint(), "endless"); });
  CHECK(eventually([&] { return world.hello.begun == 1; }, "it runs"));
  signal_self(SIGUSR1);
  CHECK_FALSE(served.over(200ms));
  served.wait(3s);
  CHECK(world.hello.cancelled == 1);
  CHECK_FALSE(call.get().ok());
}

TEST_CASE("serve: a second signal while draining ends at once") {
  ServeWorld world;
  auto config = config_of();
  config.drain_delay = 0ms;
  config.drain_timeout = 60s;
  Served served(world.pool, world.reg, config, &world.hello);
  CHECK(eventually([&] { return served.registered(); }, "registered"));
  auto call = std::async(std::launch::async, [&] { return say(served.endpoint(), "endless"); });
  CHECK(eventually([&] { return world.hello.begun == 1; }, "it runs"));
  signal_self(SIGUSR1);
  CHECK_FALSE(served.over(500ms));
  CHECK(world.list().empty());
  signal_self(SIGUSR1);
  served.wait(2s);
  CHECK(world.hello.cancelled == 1);
  CHECK_FALSE(call.get().ok());
}

TEST_CASE("serve: a port in use is a clear error, and nothing is registered") {
  ServeWorld world;
  Served first(world.pool, world.reg, config_of(), &world.hello);
  CHECK(eventually([&] { return first.registered(); }, "registered"));
  Served second(world.pool, world.reg, config_of("greeter-2", first.endpoint()), &world.hello);
  CHECK(second.code() == std::errc::address_in_use);
  CHECK(second.text.find(first.endpoint()) != std::string::npos);
  Served nowhere(world.pool, world.reg, config_of("greeter-3", "192.0.2.1:0"), &world.hello);
  CHECK(nowhere.code() == std::errc::address_not_available);
  CHECK(world.list().size() == 1);
  signal_self(SIGUSR1);
  first.wait();
}

TEST_CASE("serve: a store that does not take the registration: the server is stopped and the error thrown") {
  ServeWorld world;
  const Port port;
  world.store.set_unavailable(true);
  Served served(world.pool, world.reg, config_of("greeter-1", port.endpoint()), &world.hello);
  CHECK(eventually([&] { return say(port.endpoint(), "early").ok(); }, "it listens"));
  CHECK(served.code() == errc::unavailable);  // after the Registry's 5 s
  CHECK_FALSE(served.registered());
  CHECK(say(port.endpoint(), "late").error_code() == grpc::StatusCode::UNAVAILABLE);
}

TEST_CASE("serve: a signal while it registers ends it, and leaves nothing behind") {
  ServeWorld world;
  world.store.set_unavailable(true);
  const Port port;
  Served served(world.pool, world.reg, config_of("greeter-1", port.endpoint()), &world.hello);
  CHECK(eventually([&] { return say(port.endpoint(), "early").ok(); }, "it listens"));
  signal_self(SIGUSR1);
  served.wait(2s);
  CHECK_FALSE(served.registered());
  world.store.set_unavailable(false);
  CHECK(holds_for(300ms, [&] { return world.list().empty(); }));
}

TEST_CASE("serve: what on_registered throws ends serving") {
  ServeWorld world;
  auto config = config_of();
  config.on_registered = [](const Registration&, int) { throw std::runtime_error("no"); };
  Served served(world.pool, world.reg, config, &world.hello);
  CHECK_THROWS_WITH(served.wait(), "no");
  CHECK(world.list().empty());
}

TEST_CASE("serve: a wildcard is never published") {
  ServeWorld world;
  const auto published = [&](ServeConfig config) {
    Served served(world.pool, world.reg, config, &world.hello);
    if (!eventually([&] { return served.registered() || served.over(); }, "registered or failed"))
      return std::string("?");
    if (served.over())
      return std::string(served.code() == errc::invalid_argument ? "refused: " : "?: ") + served.text;
    const auto list = world.list();
    signal_self(SIGUSR1);
    served.wait();
    std::string endpoint = list.at(0).endpoints.at(0);
    const std::string port = served.endpoint().substr(served.endpoint().find(':'));
    if (endpoint.ends_with(port)) endpoint.resize(endpoint.size() - port.size());
    return endpoint;
  };
  auto config = config_of();
  config.drain_delay = 0ms;
  for (const char* every : {"0.0.0.0:0", "[::]:0", ":0"}) {
    CAPTURE(every);
    config.listen_address = every;
    config.route_to = "http://127.0.0.1:2379";
    config.advertised_host = "";
    CHECK(published(config) == "grpc://127.0.0.1");  // the store is on this machine
    config.advertised_host = "greeter.example.com";
    CHECK(published(config) == "grpc://greeter.example.com");
    for (const char* wildcard : {"0.0.0.0", "::", "[::]"}) {
      config.advertised_host = wildcard;
      CHECK(published(config).starts_with("refused: advertised_host = \""));
    }
  }
  config = config_of();
  config.instance.endpoints = {"grpc://0.0.0.0:9000"};
  CHECK(published(config).starts_with("refused: endpoint = \"grpc://0.0.0.0:9000\""));
  config.instance.endpoints = {"grpc://[::]:9000"};
  CHECK(published(config).starts_with("refused: endpoint"));
  config.instance.endpoints = {"grpc://10.0.0.5:9000"};
  CHECK(published(config) == "grpc://10.0.0.5:9000");
  config.instance.endpoints.clear();
  config.listen_address = "unix:/tmp/x.sock";
  CHECK(published(config).starts_with("refused: listen_address"));
  CHECK(world.list().empty());
}

TEST_CASE("serve: what changes is changed in etcd by one write each, and nobody sees the instance leave") {
  if (skip_without_etcd()) return;
  World world;
  Hello hello;
  const auto lines = std::make_shared<Lines>();
  const auto changes = std::make_shared<Changes>();
  Oracle oracle({world.etcd.endpoint()}, "/genesis/services/greeter/");
  RawEtcd raw({world.etcd.endpoint()});
  EventLog log(world.pool, world.reg.watch("greeter"));
  auto view = world.run(world.reg.subscribe("greeter"));
  auto config = config_of();
  config.instance.metadata = {{"weight", "100"}, {"zone", "a"}};
  config.ttl = 30s;
  config.observer = Observer(lines);
  Served served(world.pool, world.reg, config, &hello, Generator<ServeChange>(changes));
  CHECK(eventually([&] { return served.registered() && log.size() == 1; }, "registered"));
  const std::int64_t lease = raw.list("/genesis/services/greeter/").at(0).lease;

  ServeChange change(config.instance);
  change.instance.metadata = {{"weight", "5"}, {"zone", "a"}, {"status", "draining"}};
  changes->push(change);
  CHECK(eventually([&] { return log.size() == 2; }, "changed"));
  CHECK(eventually([&] { return view.snapshot()->find("greeter-1")->weight() == 5; }, "seen by a view"));
  const auto instance = view.snapshot()->find("greeter-1");
  REQUIRE(instance != nullptr);
  CHECK(instance->weight() == 5);
  CHECK(instance->status() == InstanceStatus::Draining);
  CHECK(instance->endpoints == std::vector<std::string>{"grpc://" + served.endpoint()});
  CHECK(eventually(
      [&] {
        return lines->has(R"(info: instance "greeter-1": changed: )"
                          R"(metadata "status" = "draining", metadata "weight" = "5")");
      },
      "logged"));
  CHECK(raw.list("/genesis/services/greeter/").at(0).lease == lease);

  changes->push(change);  // nothing new
  change.ttl = 60s;
  change.instance.version = "v2";
  changes->push(change);
  CHECK(eventually([&] { return log.size() == 3; }, "changed"));
  const auto moved = raw.list("/genesis/services/greeter/").at(0);
  CHECK(moved.lease != lease);
  CHECK(eventually([&] { return raw.leases() == std::vector<std::int64_t>{moved.lease}; },
                   "the old lease is gone"));
  CHECK(eventually([&] { return lines->has(R"(changed: version = "v2", ttl = 60 s)"); }, "logged"));

  change.ttl = 0s;
  change.instance.version = "v3";
  changes->push(change);
  CHECK(
      eventually([&] { return lines->has(R"(changed: version = "v3", ttl = 30 s)"); }, "as it was at first"));
  const std::int64_t last = raw.list("/genesis/services/greeter/").at(0).lease;
  CHECK(last != moved.lease);
  CHECK(eventually([&] { return raw.leases() == std::vector<std::int64_t>{last}; }, "one lease"));

  const auto events = oracle.finish();
  REQUIRE(events.size() == 4);
  for (const auto& event : events) CHECK_FALSE(event.deleted);
  for (const auto& event : log.all()) CHECK(event.type == EventType::Put);
  CHECK(events[2].value.find(R"("version":"v2")") != std::string::npos);
  signal_self(SIGUSR1);
  served.wait();
  CHECK(raw.list("/genesis/services/greeter/").empty());
  CHECK(eventually([&] { return raw.leases().empty(); }, "no lease is left"));
}

TEST_CASE("serve: a change that is not allowed is refused by name, and nothing of it is applied") {
  ServeWorld world;
  const auto lines = std::make_shared<Lines>();
  const auto changes = std::make_shared<Changes>();
  EventLog log(world.pool, world.reg.watch("greeter"));
  auto config = config_of();
  config.drain_delay = 0ms;
  config.observer = Observer(lines);
  Served served(world.pool, world.reg, config, &world.hello, Generator<ServeChange>(changes));
  CHECK(eventually([&] { return served.registered() && log.size() == 1; }, "registered"));
  std::size_t logged = 0;
  const auto refused = [&](ServeChange change, const std::string& line) {
    CAPTURE(line);
    change.instance.metadata["weight"] = "77";  // would be fine
    changes->push(change);
    CHECK(eventually([&] { return lines->all().size() > logged; }, "logged"));
    logged = lines->all().size();
    CHECK(lines->all().back().find("warning: instance \"greeter-1\": nothing of a change is applied: " +
                                   line) == 0);
  };
  const std::string here = "\"grpc://" + served.endpoint() + "\"";
  ServeChange change(config.instance);
  change.instance.id = "greeter-2";
  refused(change, R"(id = "greeter-2": it is "greeter-1" for as long as the server runs)");
  change.instance = ServiceInstance("other", "greeter-1");
  refused(change, R"(name = "other": it is "greeter")");
  change.instance = config.instance;
  change.instance.endpoints = {"grpc://10.0.0.1:1"};
  refused(change, R"(endpoints = "grpc://10.0.0.1:1": it is )" + here);
  change.instance.endpoints.clear();
  change.listen_address = "127.0.0.1:9001";
  refused(change, R"(listen_address = "127.0.0.1:9001": it is "127.0.0.1:0")");
  change.listen_address.clear();
  change.ttl = -1s;
  refused(change, "ttl = -1 s: use 0 for the default");
  change.ttl = 0s;
  change.instance.metadata["bad\xff"] = "x";
  refused(change, R"(metadata key = "bad\xff": use valid UTF-8)");
  CHECK(log.size() == 1);

  // What names the present values is fine, and so is what names nothing but metadata.
  change.instance = world.list().at(0);
  change.instance.metadata["weight"] = "7";
  change.listen_address = config.listen_address;
  changes->push(change);
  CHECK(eventually([&] { return log.size() == 2; }, "changed"));
  ServeChange least;
  least.instance.metadata["weight"] = "8";
  changes->push(least);
  CHECK(eventually([&] { return log.size() == 3; }, "changed"));
  CHECK(world.list().at(0).weight() == 8);
  signal_self(SIGUSR1);
  served.wait();
}

TEST_CASE("serve: of changes that come quickly the newest counts, and none is applied out of order") {
  ServeWorld world;
  const auto changes = std::make_shared<Changes>();
  EventLog log(world.pool, world.reg.watch("greeter"));
  auto config = config_of();
  config.drain_delay = 0ms;
  for (int i = 1; i <= 3; ++i) changes->push(change_of(std::to_string(i)));
  Served served(world.pool, world.reg, config, &world.hello, Generator<ServeChange>(changes));
  CHECK(eventually([&] { return log.size() == 2; }, "changed"));
  CHECK(log.all().at(1).service.version == "3");
  for (int i = 4; i <= 200; ++i) changes->push(change_of(std::to_string(i)));
  CHECK(eventually([&] { return log.all().back().service.version == "200"; }, "the last one"));
  int last = 3;
  for (const auto& event : log.all()) {
    if (event.service.version.empty()) continue;  // as it was registered
    CHECK(std::stoi(event.service.version) >= last);
    last = std::stoi(event.service.version);
  }
  signal_self(SIGUSR1);
  served.wait();
}

TEST_CASE("serve: a change while the store is out of reach stays wanted, and a signal need not wait for it") {
  ServeWorld world;
  const auto lines = std::make_shared<Lines>();
  const auto changes = std::make_shared<Changes>();
  auto config = config_of();
  config.drain_delay = 0ms;
  config.observer = Observer(lines);
  Served served(world.pool, world.reg, config, &world.hello, Generator<ServeChange>(changes));
  CHECK(eventually([&] { return served.registered(); }, "registered"));
  world.store.set_unavailable(true);
  changes->push(change_of("v2"));
  SUBCASE("it is stored when the store is back") {
    CHECK(
        eventually([&] { return lines->has("warning: instance \"greeter-1\": not yet changed"); }, "logged"));
    CHECK(lines->has("the store cannot be reached"));
    CHECK_FALSE(served.over());
    world.store.set_unavailable(false);
    CHECK(eventually([&] { return world.list().at(0).version == "v2"; }, "stored"));
    changes->push(change_of("v3"));
    CHECK(eventually([&] { return world.list().at(0).version == "v3"; }, "the next one"));
    signal_self(SIGUSR1);
    served.wait();
  }
  SUBCASE("a signal ends it") {
    CHECK_FALSE(served.over(200ms));
    signal_self(SIGUSR1);
    CHECK(eventually([&] { return !changes->push(change_of("v3")); }, "no more changes"));
    world.store.set_unavailable(false);
    served.wait(3s);
    CHECK(eventually([&] { return world.list().empty(); }, "deregistered"));
    CHECK(lines->all().empty());
  }
}

TEST_CASE("serve: while it drains nothing is changed any more, and the generator is let go") {
  ServeWorld world;
  const auto changes = std::make_shared<Changes>();
  EventLog log(world.pool, world.reg.watch("greeter"));
  Served served(world.pool, world.reg, config_of(), &world.hello, Generator<ServeChange>(changes));
  CHECK(eventually([&] { return served.registered() && log.size() == 1; }, "registered"));
  signal_self(SIGUSR1);
  CHECK(eventually([&] { return log.size() == 2; }, "deregistered"));
  CHECK_FALSE(changes->push(change_of("v2")));
  CHECK_FALSE(served.over());
  served.wait();
  CHECK(log.size() == 2);
  CHECK(log.all().at(1).type == EventType::Delete);
}

TEST_CASE("serve: changes that end, fail or cannot be read do not end it") {
  ServeWorld world;
  const auto lines = std::make_shared<Lines>();
  const auto texts = std::make_shared<registry::detail::Mailbox<std::string>>();
  auto config = config_of();
  config.drain_delay = 0ms;
  config.observer = Observer(lines);
  auto changes = serve_changes(Generator<std::string>(texts), [](const std::string& text) {
    if (text == "bad") throw std::runtime_error("bad\nchange");
    return change_of(text);
  });
  Served served(world.pool, world.reg, config, &world.hello, std::move(changes));
  CHECK(eventually([&] { return served.registered(); }, "registered"));
  const auto version = [&] { return world.list().at(0).version; };
  texts->push("v2");
  CHECK(eventually([&] { return version() == "v2"; }, "changed"));
  texts->push("bad");
  CHECK(eventually(
      [&] {
        return lines->has(R"(warning: instance "greeter-1": a change cannot be read: "bad\x0achange")");
      },
      "logged"));
  texts->push("v3");
  CHECK(eventually([&] { return version() == "v3"; }, "changed"));
  SUBCASE("ended") { texts->close(); }
  SUBCASE("failed") {
    texts->push("v4");
    texts->close(std::make_exception_ptr(std::runtime_error("the file is gone")));
    CHECK(eventually([&] { return lines->has("\"the file is gone\"") && version() == "v4"; }, "logged"));
  }
  CHECK_FALSE(served.over(200ms));
  CHECK(say(served.endpoint(), "ann").ok());
  CHECK(world.list().size() == 1);
  signal_self(SIGUSR1);
  served.wait();
}

TEST_CASE("serve: the context is destroyed while it serves, registers or drains") {
  for (int round = 0; round < 12; ++round) {
    Hello hello;
    auto io = std::make_unique<asio::io_context>();
    MemoryStore store(io->get_executor());
    Registry reg(store, quick_config());
    grpc::ServerBuilder builder;
    builder.RegisterService(&hello);
    auto config = config_of();
    config.signals.clear();
    asio::cancellation_signal cancel;
    std::atomic<bool> ended{false};
    const auto changes = std::make_shared<Changes>();
    for (int i = 0; i < 3; ++i) changes->push(change_of(std::to_string(i)));
    asio::co_spawn(*io, serve(reg, builder, config, Generator<ServeChange>(changes)),
                   asio::bind_cancellation_slot(cancel.slot(), [&](std::exception_ptr) { ended = true; }));
    io->run_for(std::chrono::milliseconds(round));
    if (round % 2 == 0) cancel.emit(asio::cancellation_type::terminal);
    io->run_for(std::chrono::milliseconds(round % 3));
    changes->push(change_of("late"));
    io.reset();
    CHECK_FALSE(ended);
    CHECK_FALSE(changes->push(change_of("too late")));
  }
}

// Not a test by itself: what the next one starts as a program of its own.
TEST_CASE("serve: child" * doctest::skip()) {
  const char* endpoint = std::getenv("REGISTRY_TEST_SERVE_ETCD");
  if (endpoint == nullptr) return;
  asio::io_context io;
  etcd::Connector store(io.get_executor(), connector_config(endpoint));
  Registry reg(store);
  Hello hello;
  grpc::ServerBuilder builder;
  builder.RegisterService(&hello);
  ServeConfig config(ServiceInstance("greeter", "child"));
  config.route_to = endpoint;
  config.drain_delay = 100ms;
  auto live = [&]() -> asio::awaitable<void> {
    co_await serve(reg, builder, config);
    co_await reg.close();
  };
  asio::co_spawn(io, live(), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
}

TEST_CASE("serve: SIGTERM and SIGINT take a program out of etcd at once, and it ends well") {
  if (skip_without_etcd()) return;
  World world;
  for (const int number : {SIGTERM, SIGINT}) {
    CAPTURE(number);
    Process child({"/proc/self/exe", "-ns", "-tc=serve: child"},
                  {"REGISTRY_TEST_SERVE_ETCD=" + world.etcd.endpoint()}, 0, 1, 2);
    std::vector<ServiceInstance> list;
    CHECK(eventually([&] { return !(list = world.run(world.reg.get_service("greeter"))).empty(); },
                     "registered"));
    REQUIRE(list.size() == 1);
    CHECK(list[0].endpoints.at(0).starts_with("grpc://127.0.0.1:"));
    CHECK(say(list[0].endpoints.at(0).substr(7), "ann").ok());
    child.signal(number);
    CHECK(eventually([&] { return world.run(world.reg.get_service("greeter")).empty(); },
                     "gone, long before its TTL", 3s));
    CHECK(child.wait(5s) == 0);
    CHECK(say(list[0].endpoints.at(0).substr(7), "bob").error_code() == grpc::StatusCode::UNAVAILABLE);
  }
}
