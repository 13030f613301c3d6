// Calls of an ordinary gRPC channel, from several threads without a pause, while the service it follows churns: instances
// come, go, drain, move and change weight, a server is killed, etcd dies and comes back.
#include <doctest/doctest.h>
#include <grpcpp/generic/generic_stub.h>
#include <registry_xds_messages.pb.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/use_future.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "registry/async/sleep.hpp"
#include "rig/grpc_world.hpp"
#include "rig/process.hpp"
#include "rig/seed.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto service = GrpcWorld::service;

/// What a loaded machine may add to a bound.
constexpr auto slack = 2s;

/// The Resolver's default: 20 pushes a second.
constexpr auto push_interval = 50ms;

/// What serve() by default gives clients to hear of a goodbye.
constexpr auto drain_delay = 1s;

std::int64_t milliseconds_of(Clock::duration time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

/// 200,000, with a sanitizer 40,000, or REGISTRY_TEST_CALLS.
std::uint64_t calls_to_make() {
  if (const char* given = std::getenv("REGISTRY_TEST_CALLS")) return std::strtoull(given, nullptr, 10);
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  return 40'000;
#else
  return 200'000;
#endif
}

/// What a test did and when, for the report of a failure.
class Diary {
 public:
  void note(std::string what) {
    const std::lock_guard lock(mutex_);
    entries_.emplace_back(Clock::now(), std::move(what));
  }
  std::int64_t time_of(Clock::time_point moment) const { return milliseconds_of(moment - begin_); }
  /// The last entries before a moment.
  std::string before(Clock::time_point moment, std::ptrdiff_t count = 8) const {
    const std::lock_guard lock(mutex_);
    const auto end = std::find_if(entries_.begin(), entries_.end(),
                                  [moment](const auto& entry) { return entry.first > moment; });
    std::string text;
    for (auto each = end - std::min(count, end - entries_.begin()); each != end; ++each) {
      text += "\n    " + std::to_string(time_of(each->first)) + " ms: " + each->second;
    }
    return text;
  }

 private:
  const Clock::time_point begin_ = Clock::now();
  mutable std::mutex mutex_;
  std::vector<std::pair<Clock::time_point, std::string>> entries_;
};

/// Unary calls without a pause: each thread keeps some of them open. Fail fast, but every fourth waits for ready.
class Load {
 public:
  Load(const std::shared_ptr<grpc::Channel>& channel, int threads, int window)
      : stub_(greeter::Greeter::NewStub(channel)), window_(window), outstanding_(threads * window) {
    request_.set_name("you");
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~Load() { stop(); }

  /// Ends when the open calls have ended.
  void stop() {
    stopped_ = true;
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

  std::uint64_t ended() const { return ended_; }
  /// So many are open at any time.
  int outstanding() const { return outstanding_; }
  /// Whether so many more calls have ended in time.
  bool runs(std::uint64_t calls) const {
    const std::uint64_t wanted = ended_ + calls;
    return eventually([&] { return ended_ >= wanted; }, "calls go on", 60s);
  }
  /// Who served that many calls, all begun from now on; `meanwhile` is done again and again.
  template <class Meanwhile>
  Spread sample(int calls, Meanwhile meanwhile) {
    const auto made = std::make_shared<Sample>(calls);
    {
      const std::lock_guard lock(mutex_);
      sample_ = made;
    }
    const auto complete = [&] {
      meanwhile();
      return made->open == 0;
    };
    CHECK(eventually(complete, "the sample is complete", 120s));
    const std::lock_guard lock(mutex_);
    return made->spread;
  }
  Spread sample(int calls) {
    return sample(calls, [] {});
  }

  struct Failure {
    grpc::Status status;
    Clock::time_point begun, ended;
  };
  std::vector<Failure> failures() const {
    const std::lock_guard lock(mutex_);
    return failures_;
  }
  void check_none_failed(const Diary& diary) const {
    const auto failed = failures();
    CHECK(failed.size() == 0);
    for (std::size_t i = 0; i < std::min<std::size_t>(failed.size(), 20); ++i) {
      const Failure& each = failed[i];
      MESSAGE("failed: begun ", diary.time_of(each.begun), " ms, ended ", diary.time_of(each.ended),
              " ms: ", each.status.error_code(), " ", each.status.error_message(), diary.before(each.ended));
    }
  }

 private:
  struct Sample {
    explicit Sample(int calls) : left(calls), open(calls) {}
    int left;
    std::atomic<int> open;
    Spread spread;
  };
  struct Call {
    grpc::ClientContext context;
    greeter::HelloReply reply;
    grpc::Status status;
    std::unique_ptr<grpc::ClientAsyncResponseReader<greeter::HelloReply>> reader;
    bool waits = false;
    Clock::time_point begun = Clock::now();
    std::shared_ptr<Sample> sample;
  };

  void work() {
    grpc::CompletionQueue queue;
    for (int i = 0; i < window_; ++i) start(queue, i % 4 == 3);
    int open = window_;
    void* tag = nullptr;
    bool ok = false;
    while (queue.Next(&tag, &ok)) {
      const std::unique_ptr<Call> call(static_cast<Call*>(tag));
      end(*call);
      if (!stopped_) {
        start(queue, call->waits);
      } else if (--open == 0) {
        queue.Shutdown();
      }
    }
  }

  void start(grpc::CompletionQueue& queue, bool waits) {
    auto call = std::make_unique<Call>();
    call->waits = waits;
    call->context.set_deadline(std::chrono::system_clock::now() + 20s);
    call->context.set_wait_for_ready(waits);
    {
      const std::lock_guard lock(mutex_);
      if (sample_) {
        call->sample = sample_;
        if (--sample_->left == 0) sample_.reset();
      }
    }
    call->reader = stub_->AsyncSayHello(&call->context, request_, &queue);
    Call* const tag = call.release();
    tag->reader->Finish(&tag->reply, &tag->status, tag);
  }

  void end(const Call& call) {
    if (call.sample || !call.status.ok()) {
      const std::lock_guard lock(mutex_);
      if (call.sample) ++call.sample->spread[call.status.ok() ? call.reply.served_by() : ""];
      if (!call.status.ok()) failures_.push_back({call.status, call.begun, Clock::now()});
    }
    if (call.sample) --call.sample->open;
    ++ended_;
  }

  const GreeterStub stub_;
  const int window_, outstanding_;
  greeter::HelloRequest request_;
  std::atomic<bool> stopped_{false};
  std::atomic<std::uint64_t> ended_{0};
  mutable std::mutex mutex_;
  std::shared_ptr<Sample> sample_;
  std::vector<Failure> failures_;
  std::vector<std::thread> threads_;
};

/// A real etcd, a Registry of the servers, and a Registry of the client with its Resolver; each has a connection of its own,
/// the client's goes through the gate.
struct EtcdGrpcWorld : World {
  explicit EtcdGrpcWorld(ResolverConfig config = ResolverConfig())
      : servers_store(pool.get_executor(), connector_config(etcd.endpoint())),
        servers(servers_store, quick_config(), observer()),
        resolver(reg, std::move(config)) {}

  std::shared_ptr<grpc::Channel> channel(std::size_t at_least) {
    ConnectionOptions options;
    options.at_least = at_least;
    options.timeout = 15s;
    return run(resolver.get_connection(service, grpc::InsecureChannelCredentials(), options));
  }

  etcd::Connector servers_store;
  Registry servers;
  Resolver resolver;
};

/// Servers of one service, with a few places for them, and the things that happen to them. One thread.
class Fleet {
 public:
  struct Member {
    std::string id;
    std::unique_ptr<Greeter> server;  // null: not there
    std::uint64_t since = 0;          // the change that brought it
    unsigned weight = 1;
    std::string status;

    bool healthy() const { return server && weight > 0 && status.empty(); }
  };

  Fleet(EtcdGrpcWorld& world, Diary& diary, std::size_t places, std::uint64_t seed)
      : world_(world), diary_(diary), random_(seed), members_(places) {
    for (std::size_t i = 0; i < places; ++i) members_[i].id = "user-" + std::to_string(i);
  }

  std::size_t draw(std::size_t below) {
    return std::uniform_int_distribution<std::size_t>(0, below - 1)(random_);
  }
  std::vector<Member>& members() { return members_; }
  void shuffle() { std::shuffle(members_.begin(), members_.end(), random_); }
  std::size_t healthy() const {
    return static_cast<std::size_t>(
        std::count_if(members_.begin(), members_.end(), [](const Member& each) { return each.healthy(); }));
  }

  void come(Member& member, unsigned weight) {
    member.server = std::make_unique<Greeter>(member.id);
    member.since = ++changes_;
    member.weight = weight;
    member.status.clear();
    diary_.note(member.id + " comes, weight " + std::to_string(weight) + ", " + member.server->endpoint());
    world_.run(world_.servers.register_instance(made(member)));
  }
  void go(Member& member) {
    diary_.note(member.id + " goes, " + member.server->endpoint());
    world_.run(world_.servers.deregister(member.id));
    leave(std::move(member.server), member.since, ++changes_);
  }
  void change(Member& member, unsigned weight, const std::string& status) {
    ++changes_;
    member.weight = weight;
    member.status = status;
    diary_.note(member.id + " has weight " + std::to_string(weight) + " " + status);
    world_.run(world_.servers.update_instance(made(member)));
  }
  /// The same instance at another address.
  void move(Member& member) {
    auto old = std::exchange(member.server, std::make_unique<Greeter>(member.id));
    const auto since = std::exchange(member.since, ++changes_);
    diary_.note(member.id + " moves, " + old->endpoint() + " to " + member.server->endpoint());
    world_.run(world_.servers.update_instance(made(member)));
    leave(std::move(old), since, changes_);
  }

  /// Something at random; one instance at least stays healthy.
  void act() {
    static constexpr unsigned weights[] = {1, 1, 1, 2, 3, 5, 0};
    Member& member = members_[draw(members_.size())];
    const unsigned weight = weights[draw(std::size(weights))];
    if (!member.server) return come(member, weight);
    const bool needed = member.healthy() && healthy() == 1;
    switch (draw(5)) {
      case 0: return needed ? move(member) : go(member);
      case 1: return move(member);
      case 2: return change(member, member.weight, needed ? "" : draw(2) == 0 ? "draining" : "disabled");
      case 3: return change(member, std::max(member.weight, 1u), "");
      default: return change(member, needed ? std::max(weight, 1u) : weight, member.status);
    }
  }

  /// Stops the servers whose time has come after their goodbye. As serve() does it, a second later; but however slow
  /// the machine is, not before gRPC knows of the goodbye (a server that came after it was called) and gives it no
  /// more calls (none of thousands).
  void stop_left(const Load& load) {
    for (const Member& each : members_) {
      if (each.server && each.server->calls() > 0) known_ = std::max(known_, each.since);
    }
    for (Left& each : left_) {
      const std::uint64_t calls = each.server->calls();
      if (calls > 0) known_ = std::max(known_, each.came);
      const auto before = std::exchange(each.looked, Clock::now());
      if (calls != each.calls) longest_ = std::max(longest_, before - each.since);
      if (each.mark == 0 || calls != each.calls || known_ < each.went) each.mark = load.ended();
      each.calls = calls;
    }
    std::erase_if(left_, [&](Left& each) {
      if (load.ended() - each.mark < 2000 || each.looked - each.since < drain_delay) return false;
      diary_.note("stop of " + each.server->id() + ", " + each.server->endpoint());
      each.server->stop(5s);
      ++stopped_;
      return true;
    });
  }
  std::size_t stopped() const { return stopped_; }
  std::uint64_t changes() const { return changes_; }
  /// From a goodbye to the last call that came nevertheless, at least: that long it was still called.
  Clock::duration longest() const { return longest_; }

 private:
  struct Left {
    std::unique_ptr<Greeter> server;
    std::uint64_t came = 0, went = 0;  // by which changes
    Clock::time_point since = Clock::now(), looked = since;
    std::uint64_t calls = 0;  // when it was looked at
    std::uint64_t mark = 0;   // all calls when it still got some, or gRPC did not know yet
  };

  static ServiceInstance made(const Member& member) {
    std::map<std::string, std::string> metadata{{"weight", std::to_string(member.weight)}};
    if (!member.status.empty()) metadata["status"] = member.status;
    return GrpcWorld::instance(member.id, "grpc://" + member.server->endpoint(), std::move(metadata));
  }
  void leave(std::unique_ptr<Greeter> server, std::uint64_t came, std::uint64_t went) {
    Left& left = left_.emplace_back();
    left.calls = server->calls();
    left.server = std::move(server);
    left.came = came;
    left.went = went;
  }

  EtcdGrpcWorld& world_;
  Diary& diary_;
  std::mt19937_64 random_;
  std::vector<Member> members_;
  std::vector<Left> left_;
  std::uint64_t changes_ = 0, known_ = 0;  // the last one, and the last one that gRPC knows of
  std::size_t stopped_ = 0;
  Clock::duration longest_{0};
};

/// gRPC draws the locality, that is the weight, at random for each call: so many calls that 5 % of the smallest share of a
/// weight are five standard deviations, and 20,000 at least.
int calls_for(const std::vector<unsigned>& weights) {
  std::map<unsigned, double> shares;
  double sum = 0;
  for (const unsigned weight : weights) {
    shares[weight] += weight;
    sum += weight;
  }
  double smallest = sum;
  for (const auto& [weight, share] : shares) smallest = std::min(smallest, share);
  const double p = smallest / sum;
  return std::max(20'000, static_cast<int>(std::ceil(25 / (0.05 * 0.05) * (1 - p) / p)));
}

/// The calls of a while in which nothing changes are spread by these weights within 5 %.
void check_spread(Fleet& fleet, Load& load, Diary& diary, const std::vector<unsigned>& weights) {
  fleet.shuffle();
  auto& members = fleet.members();
  REQUIRE(members.size() >= weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    members[i].server ? fleet.change(members[i], weights[i], "") : fleet.come(members[i], weights[i]);
  }
  for (std::size_t i = weights.size(); i < members.size(); ++i) {
    if (members[i].server) fleet.go(members[i]);
  }
  // The last change: when its calls come, gRPC knows the earlier ones. Then each is connected when it is called.
  fleet.move(members[0]);
  const auto known = [&](std::size_t i, std::uint64_t calls) {
    fleet.stop_left(load);
    return members[i].server->calls() > calls;
  };
  CHECK(eventually([&] { return known(0, 0); }, "the last change is known"));
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const std::uint64_t calls = members[i].server->calls();
    CHECK(eventually([&] { return known(i, calls); }, members[i].id + " is called"));
  }
  const int calls = calls_for(weights);
  diary.note("a sample of " + std::to_string(calls));
  const Spread seen = load.sample(calls, [&] { fleet.stop_left(load); });
  diary.note("its end");
  double sum = 0;
  for (const unsigned weight : weights) sum += weight;
  CHECK(seen.size() == weights.size());
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const auto found = seen.find(members[i].id);
    const double ratio = found == seen.end() ? 0 : found->second * sum / (1.0 * weights[i] * calls);
    CAPTURE(members[i].id);
    CAPTURE(weights[i]);
    CAPTURE(ratio);
    CHECK(std::abs(ratio - 1) <= 0.05);
  }
}

namespace xds = ::registry::xdspb;

/// An xDS client of the test's own: what a control plane says of the endpoints of a service, and how often.
class EndpointsWatcher final
    : private grpc::ClientBidiReactor<xds::DiscoveryRequest, xds::DiscoveryResponse> {
 public:
  using Weights = std::map<std::string, double>;  // "ip:port" to its part of the calls

  explicit EndpointsWatcher(int port)
      : stub_(grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials())) {
    request_.set_type_url(type);
    request_.add_resource_names(service);
    request_.mutable_node()->set_id("watcher");
    stub_.PrepareBidiStreamingCall(
        &context_, "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
        grpc::StubOptions(), this);
    StartWrite(&request_);
    StartCall();
  }
  ~EndpointsWatcher() override {
    context_.TryCancel();
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done_; });
  }

  std::vector<Clock::time_point> pushes() const {
    const std::lock_guard lock(mutex_);
    return pushes_;
  }
  std::size_t count() const { return pushes().size(); }
  Weights weights() const {
    const std::lock_guard lock(mutex_);
    return weights_;
  }

 private:
  static constexpr auto type = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

  void OnWriteDone(bool ok) override {
    if (ok) StartRead(&response_);
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    {
      const std::lock_guard lock(mutex_);
      pushes_.push_back(Clock::now());
      weights_ = read(response_);
    }
    request_.clear_node();
    request_.set_version_info(response_.version_info());
    request_.set_response_nonce(response_.nonce());
    StartWrite(&request_);
  }
  void OnDone(const grpc::Status&) override {
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  }

  static Weights read(const xds::DiscoveryResponse& response) {
    Weights made;
    double sum = 0;
    for (const auto& any : response.resources()) {
      xds::ClusterLoadAssignment assignment;
      if (any.type_url() != type || !assignment.ParseFromString(any.value())) continue;
      for (const auto& locality : assignment.endpoints()) {
        const double weight = locality.load_balancing_weight().value();
        sum += weight;
        for (const auto& each : locality.lb_endpoints()) {
          const auto& address = each.endpoint().address().socket_address();
          made[address.address() + ":" + std::to_string(address.port_value())] +=
              weight / locality.lb_endpoints_size();
        }
      }
    }
    for (auto& [address, weight] : made) weight /= sum;
    return made;
  }

  grpc::TemplatedGenericStub<xds::DiscoveryRequest, xds::DiscoveryResponse> stub_;
  grpc::ClientContext context_;
  xds::DiscoveryRequest request_;
  xds::DiscoveryResponse response_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Clock::time_point> pushes_;
  Weights weights_;
  bool done_ = false;
};

/// Whether the parts are those of these weights.
bool same_parts(const EndpointsWatcher::Weights& seen, const std::map<std::string, unsigned>& weights) {
  double sum = 0;
  for (const auto& [address, weight] : weights) sum += weight;
  return std::equal(seen.begin(), seen.end(), weights.begin(), weights.end(),
                    [sum](const auto& a, const auto& b) {
                      return a.first == b.first && std::abs(a.second - b.second / sum) < 1e-9;
                    });
}

ResolverConfig listening() {
  ResolverConfig config;
  config.listen = ":0";
  return config;
}

double range_requests(const Etcd& etcd) {
  return etcd.metric("grpc_server_started_total", R"(grpc_method="Range")");
}

}  // namespace

TEST_CASE(
    "grpc churn: 200,000 calls while instances come, go, drain and change weight: none fails, spread within "
    "5 %") {
  if (skip_without_etcd()) return;
  const std::uint64_t seed = test_seed("grpc churn");
  CAPTURE(seed);
  // Any class of weights has a quarter of the calls at least, or a sample would take too many.
  std::vector<std::vector<unsigned>> designs{{1, 1, 4}, {2, 2, 2, 3, 3, 6}, {1, 3}};
  const std::uint64_t calls = calls_to_make();
  if (calls < 200'000) designs.resize(1);
  std::uint64_t sampled = 0;
  for (const auto& weights : designs) sampled += static_cast<std::uint64_t>(calls_for(weights));
  const std::uint64_t churned = (calls - std::min(sampled, calls)) / designs.size();
  MESSAGE(calls, " calls, ", designs.size(), " times ", churned, " of them while it churns");

  EtcdGrpcWorld world;
  Diary diary;
  Fleet fleet(world, diary, 8, seed);
  for (std::size_t i = 0; i < 4; ++i) fleet.come(fleet.members()[i], 1);
  Load load(world.channel(4), 4, 8);
  const auto churn = [&](std::uint64_t until) {
    while (load.ended() < until) {
      for (std::size_t burst = fleet.draw(8) == 0 ? 6 : 1; burst > 0; --burst) fleet.act();
      std::this_thread::sleep_for(std::chrono::milliseconds(fleet.draw(40)));
      fleet.stop_left(load);
    }
  };
  for (const auto& weights : designs) {
    churn(load.ended() + churned);
    check_spread(fleet, load, diary, weights);
  }
  churn(calls);
  load.stop();
  load.check_none_failed(diary);
  CHECK(load.ended() >= calls);
  CHECK(fleet.stopped() > 0);
  MESSAGE(load.ended(), " calls, ", fleet.changes(), " changes, ", fleet.stopped(),
          " servers stopped; calls came until ", milliseconds_of(fleet.longest()), " ms after a goodbye");
  CHECK(fleet.longest() < drain_delay + slack);
}

// Not a test by itself: a server in a process of its own, for the next one.
TEST_CASE("grpc churn: child" * doctest::skip()) {
  const char* endpoint = std::getenv("REGISTRY_TEST_CHURN_ETCD");
  const char* id = std::getenv("REGISTRY_TEST_CHURN_ID");
  if (endpoint == nullptr || id == nullptr) return;
  asio::io_context io;
  etcd::Connector store(io.get_executor(), connector_config(endpoint));
  Registry reg(store, quick_config());
  Greeter server(id);
  auto live = [&]() -> asio::awaitable<void> {
    const ServiceInstance self = GrpcWorld::instance(server.id(), "grpc://" + server.endpoint());
    co_await reg.register_instance(self, 2s);
    co_await registry::detail::sleep_for(24h);  // until it is killed
  };
  asio::co_spawn(io, live(), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
}

TEST_CASE(
    "grpc churn: kill -9 of a server: others take its calls at once, it leaves the list within its TTL") {
  if (skip_without_etcd()) return;
  constexpr auto ttl = 2s;
  // etcd looks for expired leases every 500 ms.
  constexpr auto bound = ttl + 500ms;
  EtcdGrpcWorld world(listening());
  Diary diary;
  std::map<std::string, Process> children;
  for (const char* id : {"user-1", "user-2", "user-3"}) {
    children.emplace(id, Process({"/proc/self/exe", "-ns", "-tc=grpc churn: child"},
                                 {"REGISTRY_TEST_CHURN_ETCD=" + world.etcd.endpoint(),
                                  std::string("REGISTRY_TEST_CHURN_ID=") + id},
                                 0, 1, 2));
  }
  EndpointsWatcher watcher(world.resolver.port());
  Load load(world.channel(3), 4, 8);
  const auto view = world.run(world.reg.subscribe(service));
  const auto called = [&](const Spread& seen) {
    std::set<std::string> ids;
    for (const auto& [id, count] : seen) ids.insert(id);
    return ids;
  };
  CHECK(eventually(
      [&] {
        return called(load.sample(100)) == std::set<std::string>{"user-1", "user-2", "user-3"};
      },
      "three are called"));
  CHECK(eventually([&] { return watcher.weights().size() == 3; }, "three are published"));
  std::string address;
  for (const auto& each : view.snapshot()->instances) {
    if (each->id == "user-2") address = each->endpoints.at(0).substr(7);
  }
  REQUIRE(watcher.weights().contains(address));
  load.check_none_failed(diary);

  const std::uint64_t before = load.ended();
  const auto killed = Clock::now();
  children.at("user-2").kill();
  const auto left = [&](auto in_time) {
    return std::chrono::duration_cast<std::chrono::milliseconds>(killed + in_time + slack - Clock::now());
  };
  CHECK(load.runs(2000));
  CHECK(eventually(
      [&] {
        for (const auto& each : view.snapshot()->instances) {
          if (each->id == "user-2") return false;
        }
        return view.snapshot()->instances.size() == 2;
      },
      "it has left the view", left(bound)));
  const auto gone = Clock::now();
  const std::uint64_t calls = load.ended() - before;
  CHECK(eventually([&] { return world.run(world.reg.get_service(service)).size() == 2; },
                   "it has left the store", left(bound)));
  CHECK(eventually([&] { return watcher.weights().size() == 2 && !watcher.weights().contains(address); },
                   "gRPC is told of the other two only", left(bound + push_interval)));
  const Spread after = load.sample(1000);
  CHECK(called(after) == std::set<std::string>{"user-1", "user-3"});
  load.stop();

  // What may fail: calls that were open when the connection broke, and those that gRPC gives to it in the milliseconds
  // until it has noticed. As many as that again at most, and none later: long before the list tells it.
  const auto failed = load.failures();
  CHECK(failed.size() <= static_cast<std::size_t>(4 * load.outstanding()));
  auto first = Clock::time_point::max(), last = killed;
  for (const auto& each : failed) first = std::min(first, each.ended);
  for (const auto& each : failed) {
    CAPTURE(each.status.error_code());
    CAPTURE(each.status.error_message());
    CHECK(each.status.error_code() == grpc::StatusCode::UNAVAILABLE);
    CHECK(each.ended > killed);
    CHECK(each.begun < first + 1s);
    last = std::max(last, each.begun);
  }
  MESSAGE(failed.size(), " calls failed, ", load.outstanding(), " were open; the last of them began ",
          milliseconds_of(last - killed), " ms after the kill; it left the list after ",
          milliseconds_of(gone - killed), " ms and ", calls, " calls");
}

TEST_CASE("grpc churn: 100 instances, one changes: etcd is asked for no range, gRPC gets one update") {
  if (skip_without_etcd()) return;
  EtcdGrpcWorld world(listening());
  // One server at a hundred addresses of this machine.
  Greeter everyone("everyone", "0.0.0.0:0"), moved("moved");
  const std::string port = ":" + std::to_string(everyone.port());
  std::map<std::string, unsigned> expected;
  const auto instance = [&](int i, const std::string& address, unsigned weight) {
    return GrpcWorld::instance("user-" + std::to_string(i), "grpc://" + address,
                               {{"weight", std::to_string(weight)}});
  };
  const auto address_of = [&](int i) { return "127.0.0." + std::to_string(i + 1) + port; };
  for (int i = 0; i < 100; ++i) {
    expected[address_of(i)] = 1;
    world.run(world.servers.register_instance(instance(i, address_of(i), 1)));
  }
  const GreeterStub stub = greeter::Greeter::NewStub(world.channel(100));
  CHECK(hello(*stub, 20s, true).served_by == "everyone");
  EndpointsWatcher watcher(world.resolver.port());
  CHECK(eventually([&] { return same_parts(watcher.weights(), expected); }, "all are published"));
  // That requests are counted: this is one.
  double ranges = range_requests(world.etcd);
  CHECK(world.run(world.reg.get_service(service)).size() == 100);
  CHECK(range_requests(world.etcd) > ranges);

  ranges = range_requests(world.etcd);
  std::size_t pushes = watcher.count();
  const auto one_update = [&](const char* what) {
    CAPTURE(what);
    CHECK(eventually([&] { return same_parts(watcher.weights(), expected); }, what));
    CHECK(watcher.count() == ++pushes);
    CHECK(holds_for(10 * push_interval, [&] { return watcher.count() == pushes; }));
    CHECK(range_requests(world.etcd) == ranges);
  };
  expected[address_of(41)] = 7;
  world.run(world.servers.update_instance(instance(41, address_of(41), 7)));
  one_update("another weight");
  expected.erase(address_of(41));
  expected[moved.endpoint()] = 7;
  world.run(world.servers.update_instance(instance(41, moved.endpoint(), 7)));
  one_update("another address");
  CHECK(eventually([&] { return hello(*stub).served_by == "moved"; }, "calls go to the new address"));
  expected.erase(moved.endpoint());
  world.run(world.servers.deregister("user-41"));
  one_update("one less");
  CHECK(eventually([&] { return !spread(*stub, 200).contains("moved"); }, "no calls go there"));
}

TEST_CASE(
    "grpc churn: 1,000 changes in a second are at most 20 updates a second, and the last state arrives") {
  if (skip_without_etcd()) return;
  EtcdGrpcWorld world(listening());
  std::map<std::string, unsigned> expected;
  const auto instance = [&](int i, unsigned weight) {
    const std::string address = "127.0.0.1:" + std::to_string(20'000 + i);
    expected[address] = weight;
    return GrpcWorld::instance("user-" + std::to_string(i), "grpc://" + address,
                               {{"weight", std::to_string(weight)}});
  };
  for (int i = 0; i < 100; ++i) world.run(world.servers.register_instance(instance(i, 1)));
  EndpointsWatcher watcher(world.resolver.port());
  CHECK(eventually([&] { return same_parts(watcher.weights(), expected); }, "all are published"));

  const std::size_t before = watcher.count();
  const auto begin = Clock::now();
  std::vector<std::future<void>> changes;
  for (int i = 0; i < 1000; ++i) {
    std::this_thread::sleep_until(begin + i * 1ms);
    if (i >= 100) changes[static_cast<std::size_t>(i - 100)].get();  // the one before of the same instance
    const auto weight = static_cast<unsigned>(2 + i % 7);
    changes.push_back(asio::co_spawn(world.pool, world.servers.update_instance(instance(i % 100, weight)),
                                     asio::use_future));
  }
  for (std::size_t i = 900; i < 1000; ++i) changes[i].get();
  const auto changed = Clock::now();
  CHECK(eventually([&] { return same_parts(watcher.weights(), expected); }, "the last state"));
  CHECK(holds_for(6 * push_interval, [&] { return same_parts(watcher.weights(), expected); }));

  // The next one is sent no earlier than an interval after the one before, however late they arrive.
  const auto pushes = watcher.pushes();
  CHECK(pushes.size() > before);
  for (std::size_t i = before; i < pushes.size(); ++i) {
    CHECK(pushes[i] >= begin + push_interval * (i - before));
  }
  MESSAGE("1,000 changes in ", milliseconds_of(changed - begin), " ms: ", pushes.size() - before,
          " updates in ", milliseconds_of(pushes.back() - begin), " ms");
}

TEST_CASE("grpc churn: etcd dies and comes back: no call fails, what is changed afterwards arrives") {
  if (skip_without_etcd()) return;
  EtcdGrpcWorld world;
  Diary diary;
  Greeter first("user-1"), second("user-2"), third("user-3");
  const auto registered = [&](const Greeter& server) {
    return world.servers.register_instance(GrpcWorld::instance(server.id(), "grpc://" + server.endpoint()),
                                           2s);
  };
  world.run(registered(first));
  world.run(registered(second));
  Load load(world.channel(2), 2, 4);
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(load.runs(1000));
  diary.note("etcd is killed");
  world.etcd.kill();
  CHECK(eventually([&] { return view.snapshot()->stale; }, "the view is stale"));
  // Longer than the leases last: what the client knows last stays in force.
  CHECK(holds_for(3s, [&] { return view.snapshot()->instances.size() == 2; }));
  CHECK(load.runs(1000));
  const Spread meanwhile = load.sample(1000);
  CHECK(meanwhile.contains("user-1"));
  CHECK(meanwhile.contains("user-2"));
  diary.note("etcd is restarted");
  world.etcd.restart();
  diary.note("user-3 comes");
  world.run(registered(third));
  CHECK(eventually([&] { return third.calls() > 0; }, "the new one is called", 15s));
  CHECK_FALSE(view.snapshot()->stale);
  diary.note("user-1 goes");
  world.run(world.servers.deregister("user-1"));
  CHECK(eventually([&] { return !load.sample(500).contains("user-1"); }, "the old one is not called"));
  diary.note("user-1 stops");
  first.stop(5s);
  CHECK(load.runs(1000));
  load.stop();
  load.check_none_failed(diary);
  CHECK(world.run(world.reg.get_service(service)).size() == 2);
}
