// The traps of publishing by xDS, each of which costs a process, a stuck call or a lost update: empty services, many
// calls, calls that wait, odd addresses and names, thousands of endpoints, foreign bootstraps, forks, statics.
#include <doctest/doctest.h>

#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/sync_stream.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <future>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "registry/policy/ads_messages.hpp"
#include "registry/model/encode.hpp"
#include "registry/rpc/bootstrap.hpp"
#include "registry/rpc/resolver.hpp"
#include "registry/rpc/xds_names.hpp"
#include "registry/rpc/xds_stub.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/eventually.hpp"
#include "rig/greeter.hpp"
#include "rig/net.hpp"
#include "rig/process.hpp"
#include "rig/run.hpp"
#include "rig/seed.hpp"
#include "rig/temp_dir.hpp"
#include "rig/world.hpp"

extern char** environ;

namespace {
bool is_fork = false;
}
// For the leak sanitizer: a fork has none of the threads whose stacks hold what is in use.
extern "C" int __lsan_is_turned_off() { return is_fork ? 1 : 0; }

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;
namespace xds = registry::detail::xds;

namespace {

using Clock = std::chrono::steady_clock;
using GreeterStub = std::unique_ptr<greeter::Greeter::Stub>;
using Metadata = std::map<std::string, std::string>;
using grpc::StatusCode;

const std::string user_service = "user-service";

class Counters final : public Metrics {
 public:
  void add(const registry::Metric& metric, std::string_view, double amount) noexcept override {
    const std::lock_guard lock(mutex_);
    counts_[std::string(metric.name)] += amount;
  }
  double of(const std::string& name) const {
    const std::lock_guard lock(mutex_);
    const auto found = counts_.find(name);
    return found == counts_.end() ? 0 : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, double> counts_;
};

ResolverConfig with_rule(ServiceRule rule) {
  ResolverConfig config;
  config.rule = std::move(rule);
  return config;
}
ResolverConfig listening(std::string client_id = {}) {
  ResolverConfig config;
  config.listen = ":0";
  config.client_id = std::move(client_id);
  return config;
}
ServiceRule pick_first() {
  ServiceRule rule;
  rule.balancing = Balancing::PickFirst;
  return rule;
}
ServiceRule versions() {
  ServiceRule rule;
  rule.version_shares = {{"v1", 50}, {"v2", 50}};
  return rule;
}

GreeterStub stub_of(const std::string& target, grpc::ChannelArguments arguments = grpc::ChannelArguments()) {
  // Servers that come back are found again soon.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);  // the time that connecting may take
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  return greeter::Greeter::NewStub(
      grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments));
}

/// A Resolver, and a store into which others write whatever they like.
struct Plane {
  explicit Plane(ResolverConfig config = ResolverConfig())
      : store(pool.get_executor()),
        reg(store, quick_config(), Observer(nullptr, counters)),
        resolver(reg, std::move(config)) {}

  template <class T>
  T run(asio::awaitable<T> work) {
    return rig::run(pool, std::move(work));
  }

  void put(const ServiceInstance& instance) {
    store.put(key_of(instance.name, instance.id), encode(instance));
  }
  void put(const std::string& id, std::vector<std::string> endpoints, Metadata metadata = {},
           const std::string& service = user_service) {
    ServiceInstance made(service, id);
    made.endpoints = std::move(endpoints);
    made.metadata = std::move(metadata);
    put(made);
  }
  void put(const Greeter& server, Metadata metadata = {}) {
    put(server.id(), {"grpc://" + server.endpoint()}, std::move(metadata));
  }
  void erase(const std::string& id) { store.erase(key_of(user_service, id)); }

  GreeterStub stub(const std::string& service = user_service) {
    return stub_of(resolver.target(service), resolver.channel_arguments());
  }
  GreeterStub connected(std::size_t at_least, const std::string& service = user_service) {
    ConnectionOptions options;
    options.at_least = at_least;
    options.timeout = 15s;
    return greeter::Greeter::NewStub(
        run(resolver.get_connection(service, grpc::InsecureChannelCredentials(), options)));
  }
  /// "3 of 4 endpoints" when there are not that many.
  std::string missing(std::size_t at_least) {
    ConnectionOptions options;
    options.at_least = at_least;
    options.timeout = 50ms;
    return run(text_of(resolver.get_connection(user_service, grpc::InsecureChannelCredentials(), options)));
  }
  /// How often gRPC refused what we published: then it goes on with what it had, and nothing else shows it.
  double refusals() const { return counters->of("registry_resolver_rejections_total"); }

  const std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  asio::thread_pool pool{2};
  MemoryStore store;
  Registry reg;
  Resolver resolver;
};

/// Calls in the background, all at once.
class Calls {
 public:
  ~Calls() {
    for (auto& call : calls_) call.context.TryCancel();
    eventually([&] { return done() == calls_.size(); }, 20s, "all calls have ended");
  }

  void start(greeter::Greeter::Stub& stub, int count, bool wait_for_ready,
             std::chrono::milliseconds timeout = 30s, const std::string& name = "you") {
    for (int i = 0; i < count; ++i) {
      Call& call = calls_.emplace_back();
      call.context.set_deadline(std::chrono::system_clock::now() + timeout);
      call.context.set_wait_for_ready(wait_for_ready);
      call.request.set_name(name);
      stub.async()->SayHello(&call.context, &call.request, &call.reply, [this](const grpc::Status& status) {
        if (!status.ok()) {
          const std::lock_guard lock(mutex_);
          error_ = status.error_message();
          ++failed_;
        }
        ++done_;
      });
    }
  }
  std::size_t done() const { return done_; }
  std::size_t failed() const { return failed_; }
  std::string error() const {
    const std::lock_guard lock(mutex_);
    return error_;
  }

 private:
  struct Call {
    grpc::ClientContext context;
    greeter::HelloRequest request;
    greeter::HelloReply reply;
  };
  mutable std::mutex mutex_;
  std::string error_;
  std::atomic<std::size_t> failed_{0}, done_{0};
  std::deque<Call> calls_;
};

/// A client of the control plane that checks nothing and sees what is said.
class AdsClient {
 public:
  explicit AdsClient(const std::string& target)
      : channel_(grpc::CreateChannel(target, grpc::InsecureChannelCredentials())),
        method_("/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
                grpc::internal::RpcMethod::BIDI_STREAMING) {
    context_.set_deadline(std::chrono::system_clock::now() + 20s);
    stream_.reset(
        grpc::internal::ClientReaderWriterFactory<xds::DiscoveryRequest, xds::DiscoveryResponse>::Create(
            channel_.get(), method_, &context_));
  }
  ~AdsClient() {
    context_.TryCancel();
    stream_->Finish();
  }

  void ask(XdsType type, const std::string& name, const std::string& nonce = {},
           const std::string& error = {}) {
    xds::DiscoveryRequest request;
    request.set_type_url(std::string(type_url(type)));
    request.add_resource_names(name);
    request.set_response_nonce(nonce);
    if (!error.empty()) request.mutable_error_detail()->set_message(error);
    stream_->Write(request);
  }
  xds::DiscoveryResponse answer() {
    xds::DiscoveryResponse response;
    REQUIRE(stream_->Read(&response));
    return response;
  }

 private:
  std::shared_ptr<grpc::Channel> channel_;
  const grpc::internal::RpcMethod method_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<xds::DiscoveryRequest, xds::DiscoveryResponse>> stream_;
};

/// What a Resolver that listens tells of the service.
struct Told {
  xds::ClusterLoadAssignment assignment;
  std::size_t bytes = 0;

  explicit Told(const Resolver& resolver, const std::string& service = user_service) {
    AdsClient client("127.0.0.1:" + std::to_string(resolver.port()));
    client.ask(XdsType::Endpoints, service);
    const xds::DiscoveryResponse response = client.answer();
    bytes = response.ByteSizeLong();
    REQUIRE(response.resources_size() == 1);
    REQUIRE(assignment.ParseFromString(response.resources(0).value()));
  }
  std::vector<std::string> addresses() const {
    std::vector<std::string> found;
    for (const auto& locality : assignment.endpoints()) {
      for (const auto& each : locality.lb_endpoints()) {
        const auto& address = each.endpoint().address().socket_address();
        found.push_back(address.address() + ":" + std::to_string(address.port_value()));
      }
    }
    return found;
  }
  std::set<std::string> set() const {
    const auto all = addresses();
    return std::set<std::string>(all.begin(), all.end());
  }
};

/// The number `i` of the addresses that all lead to this machine.
std::string loopback(int i) {
  return "127." + std::to_string(1 + i / 65025) + "." + std::to_string(1 + i / 255 % 255) + "." +
         std::to_string(1 + i % 255);
}

std::string text_of_env(const char* name) {
  const char* text = std::getenv(name);
  return text ? text : "";
}

/// This binary again, as a process of its own: `what` is one of the children below. Its sockets lie in
/// `folder`.
Output child(const std::string& what, const std::string& kind, const TempDir& folder,
             std::vector<std::string> env = {}) {
  env.push_back("REGISTRY_TEST_XDS=" + what);
  env.push_back("REGISTRY_TEST_XDS_KIND=" + kind);
  env.push_back("REGISTRY_TEST_XDS_FOLDER=" + folder.path());
  RunOptions options;
  options.env = std::move(env);
  options.deadline = 60s;
  return rig::run({"/proc/self/exe", "-ns", "-tc=resolver: a process of its own"}, options);
}
std::string child_kind() { return text_of_env("REGISTRY_TEST_XDS_KIND"); }

bool is_empty(const TempDir& folder) { return std::filesystem::is_empty(folder.path()); }

void check_ended_well(const Output& output) {
  INFO(output.out);
  INFO(output.err);
  CHECK(output.code == 0);
}

// ---- What the children do.

/// grpc issue 32486: a service is emptied, its servers' connections drop, and a call crashes the process.
void refill() {
  const std::string kind = child_kind();
  ResolverConfig config;
  if (kind == "pick first") config.rule = pick_first();
  if (kind == "versions") config.rule = versions();
  if (kind == "zones") config.zone = "a";
  Plane plane(config);
  const std::array<Port, 2> ports;
  std::array<std::unique_ptr<Greeter>, 2> servers;
  const auto start = [&] {
    for (int i : {0, 1})
      servers[i] = std::make_unique<Greeter>("user-" + std::to_string(i + 1), ports[i].endpoint());
  };
  const auto stop = [&] {
    for (auto& server : servers) server->stop(5s);  // with what it was sent before the service was empty
  };
  const auto publish = [&](const Metadata& state) {
    for (int i : {0, 1}) {
      ServiceInstance made(user_service, "user-" + std::to_string(i + 1));
      made.endpoints = {"grpc://" + ports[i].endpoint()};
      made.metadata = state;
      if (kind == "versions") made.version = i == 0 ? "v1" : "v2";
      if (kind == "zones" && i == 0) made.metadata["zone"] = "a";
      plane.put(made);
    }
  };
  const GreeterStub stub = plane.stub();
  std::atomic<bool> over = false;
  std::atomic<int> waited = 0, failed = 0, odd = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 2; ++i) {
    callers.emplace_back([&] {
      while (!over) {
        const Hello made = hello(*stub, 30s, true);
        if (made.status.error_code() == StatusCode::CANCELLED) continue;  // its server was stopped
        ++(made.status.ok() ? waited : failed);
        if (!made.status.ok()) std::fprintf(stderr, "%s\n", made.status.error_message().c_str());
      }
    });
  }
  callers.emplace_back([&] {
    while (!over) {
      const auto code = hello(*stub, 30s).status.error_code();
      if (code != StatusCode::OK) std::this_thread::sleep_for(1ms);
      if (code != StatusCode::OK && code != StatusCode::UNAVAILABLE && code != StatusCode::CANCELLED) ++odd;
    }
  });
  int refilled = 0;
  const auto works = [&] {
    const int before = waited;
    return eventually([&] { return hello(*stub).status.ok() && waited > before; }, "calls get through");
  };
  const auto unavailable = [&] { return hello(*stub).status.error_code() == StatusCode::UNAVAILABLE; };
  const std::vector<Metadata> ways = {
      {}, {{"status", "draining"}}, {{"status", "disabled"}}, {{"weight", "0"}}};
  for (int round = 0; round < 12; ++round) {
    start();
    publish({});
    if (!works()) break;
    ++refilled;
    if (round % 4 == 0) {
      plane.erase("user-1");
      plane.erase("user-2");
    } else {
      publish(ways[round % 4]);
    }
    if (!eventually(unavailable, "the service is empty")) break;
    stop();  // the connections of what is published no longer drop
    CHECK(holds_for(60ms, unavailable));
    if (round % 3 == 0) {
      start();
      CHECK(holds_for(120ms, unavailable));
      stop();
      CHECK(unavailable());
    }
  }
  start();
  publish({});
  CHECK(works());
  over = true;
  for (auto& caller : callers) caller.join();
  CHECK(refilled == 12);
  CHECK(failed.load() == 0);
  CHECK(odd.load() == 0);
  CHECK(plane.refusals() == 0);
  std::printf("refilled %d times, %d calls waited\n", refilled, waited.load());
}

/// The application's own bootstrap leads to "app-1", our Resolver to "ours-1".
void own_bootstrap() {
  const auto variables = [] {
    std::vector<std::string> all;
    for (char** entry = environ; *entry; ++entry) all.emplace_back(*entry);
    return all;
  };
  const auto before = variables();
  const std::string kind = child_kind();
  const auto app = [&] {
    if (kind != "inline" && kind != "file") return;
    CHECK(hello(*stub_of("xds:///user-service")).served_by == "app-1");
  };
  GreeterStub early;
  if (kind == "file") {  // the application used gRPC first
    early = stub_of("xds:///user-service");
    CHECK(hello(*early).served_by == "app-1");
  }
  {
    Plane plane;
    plane.put("ours-1", {"grpc://" + text_of_env("REGISTRY_TEST_XDS_GREETER")});
    const GreeterStub ours = plane.connected(1);
    CHECK(hello(*ours).served_by == "ours-1");
    app();
    CHECK(hello(*plane.stub()).served_by == "ours-1");
    if (kind == "none") CHECK(hello(*stub_of(plane.resolver.target(user_service))).served_by == "ours-1");
    Plane another;
    another.put("ours-1", {"grpc://" + text_of_env("REGISTRY_TEST_XDS_GREETER")});
    CHECK(hello(*another.connected(1)).served_by == "ours-1");
    CHECK(hello(*ours).served_by == "ours-1");
    CHECK(variables() == before);
  }
  app();
  if (early) CHECK(hello(*early).served_by == "app-1");
  CHECK(variables() == before);
}

/// What it exits with; -1 if it does not, and is killed.
int code_of_fork(pid_t pid) {
  int status = 0;
  if (eventually([&] { return ::waitpid(pid, &status, WNOHANG) == pid; }, "the fork has ended"))
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  ::kill(pid, SIGKILL);
  ::waitpid(pid, &status, 0);
  return -1;
}

/// An application with a Resolver in a static forks.
void forks() {
  const std::string kind = child_kind();
  struct Rest {
    asio::thread_pool pool{2};
    MemoryStore store{pool.get_executor()};
    Registry reg{store};
    GreeterStub stub;
  };
  static Rest& rest = *new Rest;  // the fork's exit would wait for the pool's threads
  static Resolver resolver(rest.reg);
  const auto put = [&](const std::string& id, const std::string& variable) {
    ServiceInstance made(user_service, id);
    made.endpoints = {"grpc://" + text_of_env(variable.c_str())};
    rest.store.put(key_of(user_service, id), encode(made));
  };
  put("user-1", "REGISTRY_TEST_XDS_GREETER");
  rest.stub = stub_of(resolver.target(user_service), resolver.channel_arguments());
  if (kind.starts_with("used")) CHECK(hello(*rest.stub).served_by == "user-1");
  const std::string folder = registry::detail::socket_folder();
  CHECK(std::filesystem::exists(folder + "/ads.sock"));
  const bool orderly = kind.ends_with(" exit");
  for (int i = 0; i < 5; ++i) {
    std::fflush(stdout);
    const pid_t pid = ::fork();
    if (pid == 0) {
      is_fork = true;
      if (orderly) std::exit(0);
      ::_exit(0);
    }
    CHECK(code_of_fork(pid) == 0);
    CHECK(std::filesystem::exists(folder + "/ads.sock"));
    CHECK(hello(*rest.stub).served_by == "user-1");
  }
  put("user-2", "REGISTRY_TEST_XDS_GREETER_2");
  CHECK(eventually([&] { return hello(*rest.stub).served_by == "user-2"; }, "what is new is published"));
  CHECK(hello(*stub_of(resolver.target(user_service), resolver.channel_arguments())).status.ok());
  rest.stub.reset();
}

/// Forks before anything was used; parent and fork have Resolvers of their own.
void forks_first() {
  std::fflush(stdout);
  const pid_t pid = ::fork();
  is_fork = pid == 0;
  bool well = false;
  {
    Plane plane;
    plane.put("user-1", {"grpc://" + text_of_env("REGISTRY_TEST_XDS_GREETER")});
    well = hello(*plane.stub()).served_by == "user-1" && hello(*plane.connected(1)).served_by == "user-1";
  }
  if (is_fork) ::_exit(well ? 0 : 1);
  CHECK(well);
  CHECK(code_of_fork(pid) == 0);
}

template <int>
std::shared_ptr<void>& slot() {
  static std::shared_ptr<void> held;
  return held;
}

/// All in statics that are destroyed in the order that `kind` tells: a digit for each of 0 pool, 1 store,
/// 2 Registry, 3 Resolver, 4 channel; the statics are made before all else, or (with an "l" behind) after it.
void statics() {
  const std::string kind = child_kind();
  const auto make_slots = [] {
    slot<4>(), slot<3>(), slot<2>(), slot<1>(), slot<0>();  // slot 0 is destroyed first
  };
  const bool late = kind.ends_with("l");
  if (!late) make_slots();
  const auto pool = std::make_shared<asio::thread_pool>(2);
  const auto store = std::make_shared<MemoryStore>(pool->get_executor());
  const auto reg = std::make_shared<Registry>(*store);
  const auto resolver = std::make_shared<Resolver>(*reg);
  ServiceInstance made(user_service, "user-1");
  made.endpoints = {"grpc://" + text_of_env("REGISTRY_TEST_XDS_GREETER")};
  rig::run(*pool, reg->register_instance(made));
  const auto channel =
      rig::run(*pool, resolver->get_connection(user_service, grpc::InsecureChannelCredentials()));
  CHECK(hello(*greeter::Greeter::NewStub(channel)).served_by == "user-1");
  if (late) make_slots();
  const std::array<std::shared_ptr<void>, 5> things = {pool, store, reg, resolver, channel};
  const std::array<std::shared_ptr<void>*, 5> slots = {&slot<0>(), &slot<1>(), &slot<2>(), &slot<3>(),
                                                       &slot<4>()};
  for (std::size_t i = 0; i < 5; ++i) *slots[i] = things[static_cast<std::size_t>(kind[i] - '0')];
}

/// The folder of the sockets has a name that would have to be quoted in a URI and in JSON.
void odd_folder() {
  Plane plane;
  CHECK(registry::detail::socket_folder().starts_with(text_of_env("XDG_RUNTIME_DIR")));
  plane.put("user-1", {"grpc://" + text_of_env("REGISTRY_TEST_XDS_GREETER")});
  CHECK(hello(*plane.connected(1)).served_by == "user-1");
  CHECK(hello(*plane.stub()).served_by == "user-1");
}

const std::map<std::string, void (*)()> children = {{"refill", refill},   {"own bootstrap", own_bootstrap},
                                                    {"forks", forks},     {"forks first", forks_first},
                                                    {"statics", statics}, {"odd folder", odd_folder}};

}  // namespace

// Not a test by itself: what others start.
TEST_CASE("resolver: a process of its own" * doctest::skip()) {
  const auto what = children.find(text_of_env("REGISTRY_TEST_XDS"));
  if (what == children.end()) return;
  const bool odd = what->first == "odd folder";
  ::setenv("XDG_RUNTIME_DIR", (odd ? child_kind() : text_of_env("REGISTRY_TEST_XDS_FOLDER")).c_str(), 1);
  what->second();
}

// ---- Empty services

TEST_CASE(
    "resolver: emptied and refilled again and again while servers bounce: the process lives, calls go on") {
  const std::vector<std::string> kinds = {"round robin", "pick first", "versions", "zones"};
  const TempDir folder;
  for (std::size_t i = 0; i < kinds.size(); i += 2) {
    auto beside = std::async(std::launch::async, [&] { return child("refill", kinds[i], folder); });
    const std::array<Output, 2> outputs = {child("refill", kinds[i + 1], folder), beside.get()};
    for (const Output& output : outputs) {
      check_ended_well(output);
      CHECK(output.out.find("refilled 12 times") != std::string::npos);
    }
  }
  CHECK(is_empty(folder));
}

TEST_CASE(
    "resolver: without instances calls fail at once, and those that wait go on when there is one again") {
  Plane plane;
  Greeter server("user-1");
  const GreeterStub stub = plane.stub();
  for (int round = 0; round < 3; ++round) {
    const auto begin = Clock::now();
    const Hello made = hello(*stub, 30s);
    CHECK(made.status.error_code() == StatusCode::UNAVAILABLE);
    CHECK(Clock::now() - begin < 10s);  // gRPC would look for what is missing for 15 s
    Calls waiting;
    waiting.start(*stub, 20, true);
    CHECK(holds_for(100ms, [&] { return waiting.done() == 0; }));
    plane.put(server);
    CHECK(eventually([&] { return waiting.done() == 20; }, "the calls have ended", 10s));
    CHECK(waiting.failed() == 0);
    plane.erase("user-1");
    CHECK(eventually([&] { return !hello(*stub).status.ok(); }, "the service is empty"));
  }
  CHECK(plane.refusals() == 0);
}

TEST_CASE("resolver: calls that wait from before a name was ever heard of end with its first instance") {
  ResolverConfig zoned;
  zoned.zone = "a";
  for (const ResolverConfig& config :
       {ResolverConfig(), with_rule(pick_first()), with_rule(versions()), zoned}) {
    Plane plane(config);
    Greeter server("user-1");
    const GreeterStub stub = plane.stub();
    Calls waiting;
    waiting.start(*stub, 20, true);
    CHECK(holds_for(100ms, [&] { return waiting.done() == 0; }));
    ServiceInstance made(user_service, "user-1");
    made.version = "v2";
    made.endpoints = {"grpc://" + server.endpoint()};
    plane.run(plane.reg.register_instance(made));
    CHECK(eventually([&] { return waiting.done() == 20; }, "the calls have ended", 10s));
    CHECK(waiting.failed() == 0);
    CHECK(plane.refusals() == 0);
  }
}

TEST_CASE("resolver: calls that wait for a version are served by the others when it has gone") {
  Plane plane(with_rule(versions()));
  const Port nobody;
  ServiceInstance old(user_service, "user-1");
  old.version = "v1";
  old.endpoints = {"grpc://" + nobody.endpoint()};
  plane.put(old);
  const GreeterStub stub = plane.connected(1);
  Calls waiting;
  waiting.start(*stub, 20, true);
  CHECK(holds_for(100ms, [&] { return waiting.done() == 0; }));
  Greeter server("user-2");
  ServiceInstance fresh(user_service, "user-2");
  fresh.version = "v2";
  fresh.endpoints = {"grpc://" + server.endpoint()};
  plane.put(fresh);
  CHECK(eventually([&] { return hello(*stub, 50ms, true).served_by == "user-2"; }, "the other one is known"));
  CHECK(plane.missing(3).find("2 of 3") != std::string::npos);
  CHECK(waiting.done() == 0);
  plane.erase("user-1");
  CHECK(eventually([&] { return waiting.done() == 20; }, "the calls have ended", 10s));
  CHECK(waiting.failed() == 0);
  CHECK(plane.missing(2).find("1 of 2") != std::string::npos);
  CHECK(plane.refusals() == 0);
}

TEST_CASE("resolver: calls that wait while the store is away end when it is back") {
  Plane plane;
  Greeter server("user-1");
  plane.put(server);
  plane.store.set_unavailable(true);
  const GreeterStub stub = plane.stub();
  Calls waiting;
  waiting.start(*stub, 20, true);
  CHECK(holds_for(300ms, [&] { return waiting.done() == 0; }));
  plane.store.set_unavailable(false);
  CHECK(eventually([&] { return waiting.done() == 20; }, "the calls have ended", 10s));
  CHECK(waiting.failed() == 0);
}

// ---- Many calls

TEST_CASE("resolver: 2,000 calls in flight at once on one channel, none fails") {
  for (const ResolverConfig& config : {ResolverConfig(), with_rule(versions())}) {
    Plane plane(config);
    Greeter one("user-1"), two("user-2");
    for (const Greeter* server : {&one, &two}) {
      ServiceInstance made(user_service, server->id());
      made.version = "v1";
      made.endpoints = {"grpc://" + server->endpoint()};
      plane.put(made);
    }
    const GreeterStub stub = plane.connected(2);
    Calls calls;
    calls.start(*stub, 2000, true, 120s, "hold");
    CHECK(
        eventually([&] { return one.held() + two.held() == 2000 || calls.done() > 0; }, "all are held", 30s));
    INFO(calls.error());
    CHECK(one.held() + two.held() == 2000);
    CHECK(calls.failed() == 0);
    CHECK(hello(*stub).status.ok());
    one.release();
    two.release();
    CHECK(eventually([&] { return calls.done() == 2000; }, "all are answered", 30s));
    CHECK(calls.failed() == 0);
  }
}

// ---- Addresses

TEST_CASE("resolver: endpoints with host names are resolved") {
  Plane plane;
  Greeter one("user-1"), two("user-2");
  plane.put("user-1", {"grpc://localhost:" + std::to_string(one.port())});
  const GreeterStub stub = plane.connected(1);
  CHECK(hello(*stub).served_by == "user-1");
  plane.put("user-2", {"LOCALHOST:" + std::to_string(two.port())});
  CHECK(eventually([&] { return hello(*stub).served_by == "user-2"; }, "the second one is used"));
  plane.erase("user-1");
  CHECK(eventually([&] { return holds_for(50ms, [&] { return hello(*stub).served_by == "user-2"; }); }));
  CHECK(plane.refusals() == 0);
}

TEST_CASE("resolver: IPv6 endpoints") {
  std::unique_ptr<Greeter> six;
  try {
    six = std::make_unique<Greeter>("user-6", "[::1]:0");
  } catch (const std::runtime_error& error) {
    MESSAGE("SKIPPED: no IPv6 loopback: ", error.what());
    return;
  }
  Plane plane;
  const std::string port = std::to_string(six->port());
  plane.put("user-6", {"grpc://[::1]:" + port, "grpc://[0:0:0:0:0:0:0:1]:" + port});
  const GreeterStub stub = plane.connected(1);
  CHECK(hello(*stub).served_by == "user-6");
  CHECK(plane.missing(2).find("1 of 2") != std::string::npos);
  Greeter four("user-4");
  plane.put("user-4",
            {"grpc://[::ffff:127.0.0.1]:" + std::to_string(four.port()), "grpc://" + four.endpoint()});
  CHECK(eventually([&] { return hello(*stub).served_by == "user-4"; }, "both families side by side"));
  CHECK(hello(*stub).status.ok());
  CHECK(plane.missing(3).find("2 of 3") != std::string::npos);
  CHECK(plane.refusals() == 0);
}

TEST_CASE("resolver: an address that is there twice is published once") {
  for (const ResolverConfig& config : {ResolverConfig(), with_rule(pick_first())}) {
    Plane plane(config);
    Greeter one("user-1"), two("user-2");
    const std::string port = std::to_string(one.port());
    plane.put("user-1", {"grpc://127.0.0.1:" + port, "grpc://localhost:" + port, "grpc://127.0.0.1:" + port,
                         "grpc://[::ffff:127.0.0.1]:" + port, "grpc://[::ffff:7f00:1]:" + port});
    plane.put("user-1-again", {"grpc://127.0.0.1:" + port}, {{"weight", "3"}, {"zone", "b"}});
    const GreeterStub stub = plane.connected(1);
    CHECK(hello(*stub).served_by == "user-1");
    plane.put(two);
    CHECK(plane.connected(2));
    plane.erase("user-1");
    plane.erase("user-1-again");
    CHECK(eventually([&] { return hello(*stub).served_by == "user-2"; }, "gRPC took all updates"));
    CHECK(plane.refusals() == 0);
  }
}

TEST_CASE("resolver: a bad address loses nothing of the rest") {
  const std::vector<std::string> bad = {
      "grpc://no-such-host.invalid:9001",
      "grpc://" + std::string(64, 'a') + ".example:9001",  // longer than a name's part may be
      "grpc://127.0.0.1:0",
      "grpc://127.0.0.1:65536",
      "grpc://127.0.0.1",
      "grpc://0.0.0.0:9001",
      "grpc://[::]:9001",
      "grpc://[::ffff:0.0.0.0]:9001",
      "grpc://224.0.0.1:9001",
      "grpc://[ff02::1]:9001",
      "grpc://[fe80::1%lo]:9001",
      "grpc://[::1]]:9001",
      "grpc://1.2.3.4.5:9001",
      "grpc://256.1.1.1:9001",
      "unix:/tmp/x.sock",
      "http://127.0.0.1:9001",
      "://",
      "",
  };
  Plane plane;
  Greeter one("user-1"), two("user-2");
  const GreeterStub stub = plane.stub();
  std::vector<std::string> mixed = bad;
  mixed.insert(mixed.begin() + 3, "grpc://" + one.endpoint());
  plane.put("user-1", mixed);
  CHECK(hello(*stub, 10s, true).served_by == "user-1");
  for (std::size_t i = 0; i < bad.size(); ++i) plane.put("bad-" + std::to_string(i), {bad[i]});
  plane.store.put(key_of(user_service, "no-json"), "\xff\x00{");
  plane.store.put(key_of(user_service, "no-utf8"), "{\"endpoints\":[\"grpc://\xff\xfe:1\"]}");
  plane.store.put(key_of(user_service, "no-endpoints"), "{}");
  plane.store.put(key_of(user_service, "nul"), R"({"endpoints":["grpc://127.0.0.1\u0000.1:9"]})");
  plane.store.put(key_of(user_service, std::string("\xff\xfe id", 5)),
                  encode(ServiceInstance(user_service, "x")));
  plane.put(two);
  CHECK(eventually([&] { return hello(*stub).served_by == "user-2"; }, "the good one is published"));
  CHECK(eventually([&] { return hello(*stub).served_by == "user-1"; }, "and so is the other"));
  CHECK(plane.refusals() == 0);
}

// ---- Thousands of endpoints

TEST_CASE("resolver: of 10,000 instances a channel gets 500, the same ones for the same client") {
  Plane plane(listening("client-a"));
  Greeter server("user", "0.0.0.0:0");
  const std::string port = ":" + std::to_string(server.port());
  std::map<std::string, std::string> id_of;
  for (int i = 0; i < 10'000; ++i) {
    const std::string id = "user-" + std::to_string(i);
    id_of[loopback(i) + port] = id;
    plane.put(id, {"grpc://" + loopback(i) + port}, {{"weight", std::to_string(1 + i % 3)}});
  }
  REQUIRE(id_of.size() == 10'000);
  const GreeterStub stub = plane.connected(500);
  Calls calls;
  calls.start(*stub, 1000, true, 60s);
  CHECK(eventually([&] { return calls.done() == 1000; }, "calls get through", 30s));
  INFO(calls.error());
  CHECK(calls.failed() == 0);

  const Told told(plane.resolver);
  const std::set<std::string> mine = told.set();
  CHECK(mine.size() == 500);
  CHECK(told.addresses().size() == 500);
  CHECK(told.bytes < 64 * 1024);
  for (const std::string& address : mine) CHECK(id_of.contains(address));
  Resolver same(plane.reg, listening("client-a")), other(plane.reg, listening("client-b"));
  CHECK(Told(same).set() == mine);
  const std::set<std::string> theirs = Told(other).set();
  CHECK(theirs.size() == 500);
  std::vector<std::string> common;
  std::set_intersection(mine.begin(), mine.end(), theirs.begin(), theirs.end(), std::back_inserter(common));
  CHECK(common.size() < 100);  // 25 are to be expected

  // One goes: one takes its place.
  const std::string gone = *mine.begin();
  plane.erase(id_of[gone]);
  std::set<std::string> now;
  CHECK(eventually([&] { return !(now = Told(plane.resolver).set()).contains(gone); }, "it is replaced"));
  CHECK(now.size() == 500);
  common.clear();
  std::set_intersection(mine.begin(), mine.end(), now.begin(), now.end(), std::back_inserter(common));
  CHECK(common.size() == 499);
  CHECK(hello(*stub).status.ok());
  CHECK(plane.refusals() == 0);
}

TEST_CASE("resolver: 10,000 endpoints in one answer: far below 4 MiB, not refused, and the stream goes on") {
  ResolverConfig config = listening();
  config.max_endpoints = 10'002;
  config.zone = "a";  // gRPC connects to the far ones when the near ones fail, and checks them all the same
  Plane plane(config);
  Greeter one("user-1"), two("user-2");
  const Port nobody;
  for (int i = 0; i < 9'999; ++i) {
    plane.put("far-" + std::to_string(i), {"grpc://" + loopback(i) + ":" + std::to_string(nobody.number())},
              {{"weight", std::to_string(1 + i % 100)}});
  }
  plane.put(one, {{"zone", "a"}});
  const Told told(plane.resolver);
  CHECK(told.addresses().size() == 10'000);
  CHECK(told.set().size() == 10'000);
  CHECK(told.bytes < 512 * 1024);
  MESSAGE("10,000 endpoints: ", told.bytes, " bytes");
  const GreeterStub stub = plane.connected(10'000);
  CHECK(hello(*stub, 20s, true).served_by == "user-1");
  plane.put(two, {{"zone", "a"}});
  CHECK(eventually([&] { return hello(*stub, 20s, true).served_by == "user-2"; }, "the stream goes on", 20s));
  CHECK(plane.missing(10'002).find("10001 of 10002") != std::string::npos);
  CHECK(plane.refusals() == 0);
}

// ---- Names and metadata

TEST_CASE("resolver: service names of odd characters") {
  Plane plane(listening());
  grpc::ChannelArguments outside;
  outside.SetString(registry::detail::bootstrap_argument,
                    registry::detail::bootstrap_of("127.0.0.1:" + std::to_string(plane.resolver.port())));
  Greeter server("user-1");
  const std::vector<std::string> names = {"a b",
                                          "a%2Fb",
                                          "a%b",
                                          "%",
                                          "a?b#c",
                                          "a:b",
                                          "a:80",
                                          ":",
                                          "..",
                                          ".",
                                          "-",
                                          "\"q\"",
                                          "\\",
                                          "'",
                                          "a@b",
                                          "a[b]",
                                          "{a}",
                                          "a,b",
                                          "a;b=c",
                                          "*",
                                          "~",
                                          "&<>",
                                          "[::1]",
                                          "A.B_c",
                                          "xds",
                                          "r1",
                                          "user-service ",
                                          "\xC3\xBC",
                                          "\xE2\x82\xAC",
                                          "\xF0\x9F\x98\x80",
                                          std::string(255, 'x')};
  for (const std::string& name : names) {
    CAPTURE(name);
    plane.put("user-1", {"grpc://" + server.endpoint()}, {}, name);
    const Hello made = hello(*plane.stub(name));
    CHECK(made.status.error_message() == "");
    CHECK(made.served_by == "user-1");
    CHECK(hello(*plane.connected(1, name)).served_by == "user-1");
    const std::string target = "xds:///" + registry::detail::percent_encoded(name);
    CHECK(hello(*stub_of(target, outside)).served_by == "user-1");
  }
  CHECK(plane.refusals() == 0);
}

TEST_CASE("resolver: names of clusters say which service and version they are for") {
  using registry::detail::ClusterName;
  for (const std::string text : {"user-service", "a b", "100%", "%41", "a/b", "\"", "\xC3\xBC", "\xff", ""}) {
    CAPTURE(text);
    const std::string name = ClusterName::of(text, text);
    CHECK(name.find_first_of("\"\\ \xff") == std::string::npos);
    const ClusterName both(name), alone(ClusterName::of(text));
    CHECK(both.service == text);
    CHECK(both.version == text);
    CHECK(alone.service == text);
    CHECK_FALSE(alone.version);
  }
  CHECK(ClusterName("user-service").service == "user-service");
  for (const std::string odd : {"%", "%4", "%4g", "%-1", "%%%"}) CHECK(ClusterName(odd).service == odd);
}

TEST_CASE("resolver: weights of any text are published as gRPC takes them") {
  const std::vector<std::string> weights = {"abc",   "-1",         "99999999999", "99999999999999999999999",
                                            "",      " 5",         "5 ",          "1e3",
                                            "0x10",  "+7",         "3.5",         "65535",
                                            "65536", "4294967295", "4294967296",  "1",
                                            "2",     "007",        "\xC3\xBC",    "NaN"};
  for (const bool first : {false, true}) {
    ResolverConfig config = listening("client-a");
    if (first) config.rule = pick_first();
    Plane plane(config);
    Greeter server("user", "0.0.0.0:0");
    const std::string port = ":" + std::to_string(server.port());
    const auto address = [&](std::size_t i) { return "grpc://" + loopback(static_cast<int>(i)) + port; };
    std::size_t count = 0;
    for (const std::string& weight : weights) {
      plane.put("user-" + weight, {address(count)}, {{"weight", weight}});
      ++count;
    }
    plane.put("none", {address(count)}, {{"weight", "0"}});
    plane.put("none, too", {address(count)}, {{"weight", "00"}});
    // An instance with several addresses, whose weight is shared out.
    plane.put("wide", {address(count), address(count + 1), address(count + 2)}, {{"weight", "65535"}});
    count += 3;
    const GreeterStub stub = plane.connected(1);
    for (int i = 0; i < 30; ++i) CHECK(hello(*stub).status.ok());
    const Told told(plane.resolver);
    CHECK(told.set().size() == (first ? 18 : count));  // 16 priorities at the most, one of which has three
    CHECK(plane.refusals() == 0);
    std::map<std::uint32_t, std::uint64_t> sums;
    for (const auto& locality : told.assignment.endpoints()) {
      CHECK(locality.lb_endpoints_size() > 0);
      CHECK(locality.load_balancing_weight().value() > 0);
      sums[locality.priority()] += locality.load_balancing_weight().value();
    }
    std::uint32_t priority = 0;
    for (const auto& [at, sum] : sums) {
      CHECK(at == priority++);
      CHECK(sum < (std::uint64_t{1} << 32));
    }
  }
}

TEST_CASE("resolver: zones, regions, versions and ids of odd characters") {
  const std::vector<std::string> texts = {"a \"quoted\" zone",  "\\",  "\xC3\xBC\xE2\x82\xAC\xF0\x9F\x98\x80",
                                          "{\"a\":1}",          "a/b", "%41",
                                          std::string(255, 'z')};
  Greeter here("user-1"), there("user-2");
  for (const std::string& text : texts) {
    for (const bool first : {false, true}) {
      CAPTURE(text);
      ResolverConfig config;
      config.zone = text;
      config.region = text;
      config.rule.version_shares = {{text, 1}, {"", 1}};
      if (first) config.rule.balancing = Balancing::PickFirst;
      Plane plane(config);
      ServiceInstance made(user_service, text == "a/b" ? "a" : text);
      made.version = text;
      made.metadata = {{"zone", text}, {"region", text}};
      made.endpoints = {"grpc://" + here.endpoint()};
      plane.put(made);
      plane.put("far", {"grpc://" + there.endpoint()}, {{"zone", text + "'"}, {"region", text}});
      const GreeterStub stub = plane.connected(2);
      CHECK(eventually([&] { return hello(*stub).served_by == "user-1"; }, "one version"));
      CHECK(eventually([&] { return hello(*stub).served_by == "user-2"; }, "the other version"));
      CHECK(plane.refusals() == 0);
    }
  }
}

TEST_CASE("resolver: settings that gRPC could not read are refused by name") {
  Plane plane;
  const auto refusal = [&](const ResolverConfig& config) {
    try {
      Resolver resolver(plane.reg, config);
    } catch (const std::system_error& error) {
      CHECK(error.code() == errc::invalid_argument);
      return std::string(error.what());
    }
    return std::string();
  };
  ResolverConfig config;
  config.zone = "\xff";
  CHECK(refusal(config).starts_with("zone = \"\\xff\""));
  config = ResolverConfig();
  config.region = "\xc3";
  CHECK(refusal(config).starts_with("region = \"\\xc3\""));
  config = ResolverConfig();
  config.services[user_service].version_shares = {{"v1", 1}, {"\xff", 1}};
  CHECK(refusal(config).starts_with("services[\"user-service\"].version_shares = \"\\xff\""));
}

TEST_CASE("resolver: what gRPC refuses is told to the Registry's Observer") {
  struct Lines final : Logger {
    void log(LogLevel, std::string_view text) noexcept override {
      const std::lock_guard lock(mutex);
      all += std::string(text) + "\n";
    }
    bool have(const std::string& text) {
      const std::lock_guard lock(mutex);
      return all.find(text) != std::string::npos;
    }
    std::mutex mutex;
    std::string all;
  };
  const auto lines = std::make_shared<Lines>();
  asio::thread_pool pool{1};
  MemoryStore store{pool.get_executor()};
  Registry reg(store, quick_config(), Observer(lines));
  Resolver resolver(reg, listening());
  // The name of this Resolver's service on the socket of the process, and on its own port.
  const std::string inside = resolver.target(user_service).substr(std::string("xds:///").size());
  const std::vector<std::pair<std::string, std::string>> ways = {
      {"unix:" + registry::detail::socket_folder() + "/ads.sock", inside},
      {"127.0.0.1:" + std::to_string(resolver.port()), user_service}};
  for (const auto& [target, name] : ways) {
    CAPTURE(target);
    AdsClient client(target);
    client.ask(XdsType::Endpoints, name);
    const std::string nonce = client.answer().nonce();
    client.ask(XdsType::Endpoints, name, nonce, "we do not like " + name);
    CHECK(eventually([&] { return lines->have("as \"" + name + "\": \"we do not like " + name); }));
    client.ask(XdsType::Cluster, name);
    client.ask(XdsType::Cluster, name, client.answer().nonce(), "nor the cluster of " + name);
    CHECK(eventually([&] { return lines->have("nor the cluster of " + name); }));
  }
}

// ---- The process around it

TEST_CASE("resolver: an application with an xDS bootstrap of its own keeps it, and its environment") {
  Plane theirs(listening());
  Greeter app("app-1"), ours("ours-1");
  theirs.put(app);
  const std::string bootstrap =
      registry::detail::bootstrap_of("127.0.0.1:" + std::to_string(theirs.resolver.port()));
  const TempDir files, folder;
  const std::string file = files / "bootstrap.json";
  std::ofstream(file) << bootstrap;
  const std::map<std::string, std::string> kinds = {{"inline", "GRPC_XDS_BOOTSTRAP_CONFIG=" + bootstrap},
                                                    {"file", "GRPC_XDS_BOOTSTRAP=" + file},
                                                    {"broken", "GRPC_XDS_BOOTSTRAP_CONFIG={"},
                                                    {"missing", "GRPC_XDS_BOOTSTRAP=/no/such/file"},
                                                    {"none", "NO_BOOTSTRAP=1"}};
  for (const auto& [kind, variable] : kinds) {
    CAPTURE(kind);
    check_ended_well(
        child("own bootstrap", kind, folder, {variable, "REGISTRY_TEST_XDS_GREETER=" + ours.endpoint()}));
  }
  CHECK(is_empty(folder));
}

TEST_CASE("resolver: a process that forks goes on; the fork ends, and leaves the socket where it is") {
  Greeter one("user-1"), two("user-2");
  const TempDir folder;
  for (const std::string kind : {"unused _exit", "used _exit", "unused exit", "used exit"}) {
    CAPTURE(kind);
    check_ended_well(child(
        "forks", kind, folder,
        {"REGISTRY_TEST_XDS_GREETER=" + one.endpoint(), "REGISTRY_TEST_XDS_GREETER_2=" + two.endpoint()}));
    CHECK(is_empty(folder));
  }
}

TEST_CASE("resolver: a fork from before there was a Resolver has its own, beside that of its parent") {
  Greeter server("user-1");
  const TempDir folder;
  check_ended_well(child("forks first", "", folder, {"REGISTRY_TEST_XDS_GREETER=" + server.endpoint()}));
  CHECK(is_empty(folder));
}

TEST_CASE("resolver: context, store, Registry, Resolver and channel in statics, destroyed in any order") {
  std::mt19937_64 random(test_seed("statics"));
  Greeter server("user-1");
  const TempDir folder;
  std::vector<std::string> orders = {"43210", "01234l", "34210", "20143l", "30124", "03142"};
  for (int i = 0; i < 6; ++i) {
    std::string order = "01234";
    std::shuffle(order.begin(), order.end(), random);
    orders.push_back(order + (i % 2 ? "l" : ""));
  }
  for (const std::string& order : orders) {
    CAPTURE(order);
    const Output output = child("statics", order, folder, {"REGISTRY_TEST_XDS_GREETER=" + server.endpoint()});
    check_ended_well(output);
    CHECK(is_empty(folder));
  }
}

TEST_CASE("resolver: the socket's folder may have any name") {
  Greeter server("user-1");
  for (const std::string name : {"a b", "%41", "\"q\"", "\xC3\xBC", "a\\b", "#?"}) {
    CAPTURE(name);
    const TempDir folder;
    const std::string odd = folder / name;
    REQUIRE(std::filesystem::create_directory(odd));
    check_ended_well(child("odd folder", odd, folder, {"REGISTRY_TEST_XDS_GREETER=" + server.endpoint()}));
    CHECK(std::filesystem::is_empty(odd));
  }
}
