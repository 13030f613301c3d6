// Auto-sync: a client that was given one endpoint of a cluster goes on without it, follows members that come
// and go, and is no worse off for addresses that it cannot use.
#include <doctest/doctest.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <algorithm>
#include <array>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <numeric>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rig/cluster.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

const std::string service = "user-service";
const std::string key = key_of(service, "user-1");

/// The library's log.
struct Lines : Logger {
  void log(LogLevel level, std::string_view text) noexcept override {
    observer().log(level, text);
    const std::lock_guard lock(mutex);
    all.emplace_back(level, text);
  }
  std::size_t count(const std::string& part, LogLevel level = LogLevel::Info) const {
    const std::lock_guard lock(mutex);
    return static_cast<std::size_t>(std::count_if(all.begin(), all.end(), [&](const auto& line) {
      return line.first == level && line.second.find(part) != std::string::npos;
    }));
  }
  bool says(const std::string& part) const { return count(part) != 0; }
  bool uses(const std::string& endpoint) const { return says("etcd " + endpoint + " is used, too"); }

  mutable std::mutex mutex;
  std::vector<std::pair<LogLevel, std::string>> all;
};

etcd::ConnectorConfig synced(const std::string& endpoint, std::chrono::milliseconds interval = 1s) {
  auto config = connector_config(endpoint);
  config.auto_sync_interval = interval;
  return config;
}

/// A Registry that was told of one endpoint.
struct Client {
  explicit Client(etcd::ConnectorConfig config)
      : store(pool.get_executor(), std::move(config), Observer(lines)),
        reg(store, quick_config(), Observer(lines)) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }
  bool learns(const std::string& endpoint) {
    return eventually([&] { return lines->uses(endpoint); }, "uses " + endpoint);
  }
  /// The text of what went wrong.
  std::string read() { return run(text_of(reg.get_service(service))); }

  std::shared_ptr<Lines> lines = std::make_shared<Lines>();
  asio::thread_pool pool{2};
  etcd::Connector store;
  Registry reg;
};

/// A registration and a watch, in use.
struct InUse {
  explicit InUse(Client& of, std::chrono::seconds ttl = 3s)
      : client(of), states(of.pool, of.reg.registration_events()), events(of.pool, of.reg.watch(service)) {
    client.run(client.reg.register_instance(instance(service, "user-1"), ttl));
    if (!eventually([&] { return events.size() == 1; }, "the watch runs")) throw TooLate();
  }

  /// What another client writes through these members is seen, and ours is still there, never lost.
  void goes_on(const std::vector<std::string>& endpoints, const std::string& id) {
    RawEtcd writer(endpoints);
    const auto put = [&] {
      return writer.put(key_of(service, id), encode(instance(service, id))).has_value();
    };
    CHECK(eventually(put, "written"));
    const auto seen = [&] {
      const auto all = events.all();
      return std::any_of(all.begin(), all.end(), [&](const auto& event) { return event.service.id == id; });
    };
    CHECK(eventually(seen, id + " is seen"));
    CHECK(holds_for(3500ms, [&] { return writer.list(key).size() == 1; }));
    CHECK(losses(states) == "");
  }

  Client& client;
  RegistrationLog states;
  EventLog events;
};

/// A port that nobody listens at.
std::string nowhere() {
  static const Port port;
  return port.endpoint();
}

/// A member that joins the cluster that these are in.
Etcd join(const Etcd& through, const std::string& name, const std::string& others) {
  auto peer = std::make_shared<const Port>();
  // etcd refuses while it is not sure that enough members are well.
  const auto added = [&] {
    return through.ctl({"member", "add", name, "--peer-urls=http://" + peer->endpoint()}).ok();
  };
  if (!eventually(added, "member add", 20s)) throw EtcdError("member add");
  auto options = Cluster::quick();
  options.name = name;
  options.cluster = others + "," + name + "=http://" + peer->endpoint();
  options.flags = {"--initial-cluster-state=existing"};
  Etcd member(std::move(options), std::move(peer));
  member.start();
  member.wait_ready();
  return member;
}

void leave(const Etcd& through, const Etcd& member) {
  const auto id = member.member_id();
  const auto left = [&] { return through.ctl({"member", "remove", id}).ok(); };
  if (!eventually(left, "member remove", 20s)) throw EtcdError("member remove");
}

}  // namespace

TEST_CASE("member sync: one endpoint of three is given, and its member dies: all goes on") {
  if (skip_without_etcd()) return;
  Cluster cluster(3);
  Client client(synced(cluster[0].endpoint(), 10min));  // asked at the first use, and once more
  InUse used(client);
  CHECK(client.learns(cluster[1].endpoint()));
  CHECK(client.learns(cluster[2].endpoint()));
  cluster[0].kill();
  used.goes_on({cluster[1].endpoint(), cluster[2].endpoint()}, "after");
  CHECK(client.read() == "");
  // And from one that was learned to the other one.
  cluster[0].restart();
  cluster.wait_ready();
  cluster[1].kill();
  used.goes_on({cluster[0].endpoint(), cluster[2].endpoint()}, "later");
  client.run(client.reg.close());
}

TEST_CASE("member sync: without it the member that was given is missed") {
  if (skip_without_etcd()) return;
  Cluster cluster(3);
  Client client(connector_config(cluster[0].endpoint()));
  InUse used(client);
  cluster[0].kill();
  CHECK(eventually([&] { return has_state(used.states, RegistrationState::Lost); }));
  CHECK(client.read() != "");
  cluster[0].restart();
  client.run(client.reg.close());
}

TEST_CASE("member sync: members that join are used, those that leave are not, until all have been replaced") {
  if (skip_without_etcd()) return;
  // One after the other, so that a cluster of the new members alone is left.
  auto options = Cluster::quick();
  options.name = "m0";
  const auto peer = std::make_shared<const Port>();
  const std::string first = "m0=http://" + peer->endpoint();
  options.cluster = first;
  Etcd m0(options, peer);
  m0.start();
  m0.wait_ready();
  // A second member is counted before it has started: until then there is no quorum.
  Etcd m1 = join(m0, "m1", first);
  Client client(synced(m0.endpoint()));
  InUse used(client, 8s);  // several elections long
  CHECK(client.learns(m1.endpoint()));
  Etcd m2 = join(m0, "m2", first + ",m1=" + m1.peer_url());
  CHECK(client.learns(m2.endpoint()));
  leave(m1, m0);
  m0.kill();
  used.goes_on({m1.endpoint(), m2.endpoint()}, "without-m0");

  Etcd m3 = join(m2, "m3", "m1=" + m1.peer_url() + ",m2=" + m2.peer_url());
  CHECK(client.learns(m3.endpoint()));
  leave(m2, m1);
  m1.kill();
  CHECK(
      eventually([&] { return client.lines->says("etcd " + m1.endpoint() + " is no longer of a member"); }));
  used.goes_on({m2.endpoint(), m3.endpoint()}, "without-m1");

  leave(m3, m2);
  m2.kill();
  used.goes_on({m3.endpoint()}, "with-m3");
  CHECK(client.read() == "");
  CHECK(
      eventually([&] { return client.lines->says("etcd " + m2.endpoint() + " is no longer of a member"); }));
  client.run(client.reg.close());
}

TEST_CASE("member sync: with user and password, of an ordinary user") {
  if (skip_without_etcd()) return;
  auto options = Cluster::quick();
  options.root_password = "r";
  options.users = {{"svc", "pw", "/genesis/"}};
  Cluster cluster(3, options);
  auto config = synced(cluster[0].endpoint());
  config.username = "svc";
  config.password = "pw";
  Client client(config);
  InUse used(client);
  CHECK(client.learns(cluster[1].endpoint()));
  CHECK(client.learns(cluster[2].endpoint()));
  cluster[0].kill();
  CHECK(holds_for(4s, [&] { return client.read() == ""; }));
  CHECK(losses(used.states) == "");
  client.run(client.reg.close());
}

TEST_CASE("member sync: over TLS members are learned with it; plain text addresses are left out, once said") {
  if (skip_without_etcd()) return;
  Certs certs;
  EtcdOptions options;
  options.tls = certs.server();
  Gate gate;
  options.flags = {"--advertise-client-urls=https://" + gate.endpoint() + ",http://" + nowhere()};
  Etcd etcd(options);
  gate.aim(etcd.endpoint());
  auto config = synced("https://" + etcd.endpoint());
  config.tls.emplace();
  config.tls->ca_file = certs.ca;
  Client client(config);
  InUse used(client);
  CHECK(client.learns(gate.endpoint()));
  CHECK(eventually(
      [&] { return etcd.metric("grpc_server_handled_total", "grpc_method=\"MemberList\"") >= 5; }));
  CHECK(client.lines->count("http://" + nowhere() + "\", which is plain text, and tls is set") == 1);
  client.run(client.reg.close());
}

TEST_CASE("member sync: an address that wants TLS, where we have none, is left out") {
  if (skip_without_etcd()) return;
  EtcdOptions options;
  options.flags = {"--advertise-client-urls=https://" + nowhere()};
  Etcd etcd(options);
  Client client(synced(etcd.endpoint()));
  InUse used(client);
  CHECK(eventually(
      [&] { return etcd.metric("grpc_server_handled_total", "grpc_method=\"MemberList\"") >= 3; }));
  CHECK(client.lines->count("which wants TLS, and tls is not set") == 1);
  CHECK(client.read() == "");
  client.run(client.reg.close());
}

TEST_CASE("member sync: addresses that do not answer from here make nothing worse") {
  if (skip_without_etcd()) return;
  Gate black_hole(nowhere());
  black_hole.swallow();
  EtcdOptions options;
  options.flags = {"--advertise-client-urls=http://" + black_hole.endpoint() + ",http://" + nowhere()};
  Etcd etcd(options);
  Gate gate(etcd.endpoint());
  auto config = synced(gate.endpoint());
  config.request_timeout = 6s;
  Client client(config);
  InUse used(client);
  const auto left_out = [&](const std::string& endpoint) {
    return eventually(
        [&] { return client.lines->says("etcd " + endpoint + ", which a member advertises, is not used"); });
  };
  CHECK(left_out(nowhere()));
  CHECK(left_out(black_hole.endpoint()));
  // The one way there is breaks: calls go on as soon as it is whole, and none is sent into the black hole.
  for (int round = 0; round < 20; ++round) {
    gate.cut();
    const auto start = Clock::now();
    etcdpb::PutRequest put;
    put.set_key("/genesis/some-key");
    const auto text = client.run(text_of(client.store.put(std::move(put))));
    CHECK(text.find(black_hole.endpoint()) == std::string::npos);
    CHECK(client.read() == "");
    CHECK(Clock::now() - start < config.request_timeout / 2);  // which would go to a silent endpoint
  }
  CHECK(losses(used.states) == "");
  CHECK(client.lines->count(black_hole.endpoint()) == 1);
  client.run(client.reg.close());
}

TEST_CASE("member sync: an address where another cluster listens is never used") {
  if (skip_without_etcd()) return;
  EtcdOptions elsewhere;
  elsewhere.token = "elsewhere";
  Etcd other(elsewhere);
  EtcdOptions options;
  options.advertise = other.endpoint();  // as localhost is somebody else's at every client
  Etcd etcd(options);
  Client client(synced(etcd.endpoint()));
  InUse used(client);
  CHECK(eventually([&] { return client.lines->says("is not used: another cluster answers there"); }));
  etcd.kill();
  CHECK(client.read() != "");
  CHECK(holds_for(2s, [&] { return other.get_prefix("/genesis/").empty(); }));
  etcd.restart();
  CHECK(eventually([&] { return client.read() == ""; }));
  client.run(client.reg.close());
  CHECK(client.lines->count(other.endpoint()) == 1);
  for (const auto* method : {"Txn", "LeaseGrant", "Watch"})
    CHECK(other.metric("grpc_server_started_total", "grpc_method=\"" + std::string(method) + "\"") == 0);
}

namespace {

/// A member that answers reads, and MemberList as the script wants it.
class FakeMember {
 public:
  using Answer = std::function<grpc::Status(raw::pb::MemberListResponse&)>;

  FakeMember() : kv_(*this), cluster_(*this) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&kv_);
    builder.RegisterService(&cluster_);
    server_ = builder.BuildAndStart();
  }

  std::string endpoint() const { return "127.0.0.1:" + std::to_string(port_); }
  void answer(Answer answer) {
    const std::lock_guard lock(mutex_);
    answer_ = std::move(answer);
  }
  int asked() const {
    const std::lock_guard lock(mutex_);
    return asked_;
  }
  /// Reads fail from now on, or not.
  void refuse_reads(bool refuse) { refusing_ = refuse; }
  int reads() const { return reads_; }
  /// Lists this member, and one at these URLs.
  static Answer listing(std::vector<std::string> urls, std::uint64_t cluster = 7) {
    return [urls, cluster](raw::pb::MemberListResponse& response) {
      response.mutable_header()->set_cluster_id(cluster);
      response.mutable_header()->set_member_id(1);
      auto& self = *response.add_members();
      self.set_id(1);
      self.add_client_urls("http://192.0.2.1:2379");
      auto& other = *response.add_members();
      other.set_id(2);
      for (const auto& url : urls) other.add_client_urls(url);
      return grpc::Status::OK;
    };
  }

 private:
  struct Kv final : raw::rpc::KV::CallbackService {
    explicit Kv(FakeMember& of) : fake(of) {}
    grpc::ServerUnaryReactor* Range(grpc::CallbackServerContext* context, const raw::pb::RangeRequest*,
                                    raw::pb::RangeResponse* response) override {
      ++fake.reads_;
      response->mutable_header()->set_cluster_id(7);
      response->mutable_header()->set_revision(10);
      auto* const reactor = context->DefaultReactor();
      reactor->Finish(fake.refusing_ ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "not now")
                                     : grpc::Status::OK);
      return reactor;
    }
    FakeMember& fake;
  };
  struct Members final : raw::rpc::Cluster::CallbackService {
    explicit Members(FakeMember& of) : fake(of) {}
    grpc::ServerUnaryReactor* MemberList(grpc::CallbackServerContext* context,
                                         const raw::pb::MemberListRequest*,
                                         raw::pb::MemberListResponse* response) override {
      auto* const reactor = context->DefaultReactor();
      const std::lock_guard lock(fake.mutex_);
      ++fake.asked_;
      reactor->Finish(fake.answer_(*response));
      return reactor;
    }
    FakeMember& fake;
  };

  mutable std::mutex mutex_;
  Answer answer_ = listing({});
  int asked_ = 0, port_ = 0;
  std::atomic<bool> refusing_ = false;
  std::atomic<int> reads_ = 0;
  Kv kv_;
  Members cluster_;
  std::unique_ptr<grpc::Server> server_;
};

FakeMember::Answer refusing(grpc::StatusCode code, const std::string& text) {
  return [code, text](raw::pb::MemberListResponse&) { return grpc::Status(code, text); };
}

/// Keeps using the store until the fake was asked that many more times.
bool asked_again(Client& client, const FakeMember& fake, int times) {
  const int before = fake.asked();
  return eventually([&] { return client.read() == "" && fake.asked() >= before + times; }, "asked again",
                    20s);
}

}  // namespace

TEST_CASE("member sync: who may not ask for the members goes on with what is known, and says it once") {
  FakeMember fake;
  fake.answer(refusing(grpc::StatusCode::PERMISSION_DENIED, "etcdserver: permission denied"));
  SUBCASE("from the beginning") {}
  SUBCASE("the member does not know the call") {
    fake.answer(refusing(grpc::StatusCode::UNIMPLEMENTED, "unknown service"));
  }
  Client client(synced(fake.endpoint()));
  CHECK(asked_again(client, fake, 3));
  CHECK(client.lines->count("cannot be asked for", LogLevel::Warning) == 1);
  // No fault of the endpoint.
  CHECK_FALSE(client.lines->says("is avoided"));
  // The right is given, and taken away again, with a member learned between.
  FakeMember second;
  second.answer(FakeMember::listing({"http://" + second.endpoint()}));
  fake.answer(FakeMember::listing({"http://" + second.endpoint()}));
  CHECK(eventually([&] { return client.read() == "" && client.lines->uses(second.endpoint()); }));
  fake.answer(refusing(grpc::StatusCode::PERMISSION_DENIED, "etcdserver: permission denied"));
  CHECK(asked_again(client, fake, 2));
  CHECK(client.lines->count("cannot be asked for", LogLevel::Warning) == 2);
  CHECK_FALSE(client.lines->says("is not used any more"));
}

TEST_CASE("member sync: a member that has left is not turned to again, though it listens and was in use") {
  FakeMember first, second;
  first.answer(FakeMember::listing({"http://" + second.endpoint()}));
  second.answer(FakeMember::listing({"http://" + second.endpoint()}));
  Client client(synced(first.endpoint()));
  CHECK(client.read() == "");
  CHECK(client.learns(second.endpoint()));
  first.refuse_reads(true);
  CHECK(client.read() == "");
  CHECK(second.reads() >= 1);
  first.refuse_reads(false);
  second.answer(FakeMember::listing({}));
  const auto given_up = [&] {
    return client.read() == "" && client.lines->says(second.endpoint() + " is no longer of a member");
  };
  CHECK(eventually(given_up, "given up"));
  const int before = second.reads();
  CHECK(client.read() == "");
  first.refuse_reads(true);
  CHECK(client.read() != "");
  CHECK(second.reads() == before);
}

TEST_CASE("member sync: lists without end, with nonsense, or empty, do no harm") {
  FakeMember fake;
  fake.answer(FakeMember::listing({"http://\xff\xfe:1"}));  // no message at all for protobuf
  Client client(synced(fake.endpoint()));
  CHECK(asked_again(client, fake, 1));
  std::vector<std::string> urls{"",
                                "http://",
                                "://",
                                "http://h:1/../x",
                                std::string(100'000, 'x'),
                                "http://[::1",
                                "http://h:99999",
                                "unix:///tmp/etcd.sock"};
  for (int i = 0; i < 2000; ++i) urls.push_back("http://127.0.0.1:1?" + std::to_string(i));
  fake.answer(FakeMember::listing(urls));
  CHECK(asked_again(client, fake, 2));
  const auto lines = [&] {
    const std::lock_guard lock(client.lines->mutex);
    return client.lines->all;
  };
  CHECK(lines().size() <= 120);
  for (const auto& [level, text] : lines()) CHECK(text.size() < 500);
  FakeMember second;
  second.answer(FakeMember::listing({"http://" + second.endpoint()}));
  fake.answer(FakeMember::listing({"http://" + second.endpoint()}));
  CHECK(eventually([&] { return client.read() == "" && client.lines->uses(second.endpoint()); }));
  fake.answer([](raw::pb::MemberListResponse&) { return grpc::Status::OK; });
  CHECK(asked_again(client, fake, 2));
  CHECK_FALSE(client.lines->says("is not used any more"));
}

TEST_CASE("member sync: nothing is asked without a use, and calls alone are use enough") {
  FakeMember fake;
  asio::io_context io;
  etcd::Connector store(io.get_executor(), synced(fake.endpoint()));
  io.run();
  CHECK(fake.asked() == 0);
  for (int round = 0; round < 3; ++round) {
    const int before = fake.asked();
    const auto again = [&] {
      io.restart();
      etcdpb::RangeRequest request;
      request.set_key("a");
      asio::co_spawn(io, store.range(std::move(request)), asio::detached);
      io.run_for(patience);  // ends at once: nothing waits for the next time
      REQUIRE(io.stopped());
      return fake.asked() > before;
    };
    CHECK(eventually(again, "asked"));
  }
}

TEST_CASE("member sync: a watch alone is use enough") {
  if (skip_without_etcd()) return;
  Etcd etcd;
  Client client(synced(etcd.endpoint()));
  Log<Batch> log(client.pool, client.store.watch(KeyRange("a"), 1));
  const auto asked = [&] { return etcd.metric("grpc_server_handled_total", "grpc_method=\"MemberList\""); };
  CHECK(eventually([&] { return asked() >= 3; }, "asked again and again"));
  CHECK_FALSE(log.ended());
}

TEST_CASE("member sync: every order of destruction, and close(), with a list and an address being asked") {
  if (skip_without_etcd()) return;
  Etcd etcd;
  Gate black_hole(nowhere());
  black_hole.swallow();
  EtcdOptions options;
  options.flags = {"--advertise-client-urls=http://" + black_hole.endpoint() + "," + etcd.url()};
  Etcd advertises(options);
  Gate gate(advertises.endpoint());
  for (const bool silent : {false, true}) {
    if (silent) gate.swallow();
    std::vector<int> order(4);
    std::iota(order.begin(), order.end(), 0);
    int round = 0;
    do {
      auto io = std::make_unique<asio::io_context>();
      auto store = std::make_unique<etcd::Connector>(io->get_executor(), synced(gate.endpoint()));
      auto reg = std::make_unique<Registry>(*store, quick_config());
      auto events = std::make_unique<Generator<ServiceEvent>>(reg->watch(service));
      asio::co_spawn(*io, events->next(), asio::detached);
      asio::co_spawn(*io, reg->get_service(service), asio::detached);
      io->run_for(std::chrono::milliseconds(3 * (round % 25)));
      if (!silent && round % 4 == 3) rig::run(*io, store->close());
      for (const int part : order) {
        switch (part) {
          case 0: io.reset(); break;
          case 1: store.reset(); break;
          case 2: reg.reset(); break;
          default: events.reset(); break;
        }
        if (io && round % 2 == 0) io->poll();
      }
      ++round;
    } while (std::next_permutation(order.begin(), order.end()));
  }
}

TEST_CASE("member sync: with everything gone nothing keeps the context running, on two threads") {
  if (skip_without_etcd()) return;
  Cluster cluster(3);  // has something to learn: the next look is soon
  Etcd single;         // has not
  for (int round = 0; round < 30; ++round) {
    asio::io_context io;
    const auto endpoint = round % 3 == 0 ? cluster[0].endpoint() : single.endpoint();
    auto store = std::make_unique<etcd::Connector>(io.get_executor(), synced(endpoint, 10min));
    auto reg = std::make_unique<Registry>(*store, quick_config());
    auto events = std::make_unique<Generator<ServiceEvent>>(reg->watch(service));
    asio::co_spawn(io, events->next(), asio::detached);
    std::atomic<int> ended = 0;
    std::vector<std::thread> crew;
    for (int i = 0; i < 2; ++i) {
      crew.emplace_back([&] {
        io.run();
        ++ended;
      });
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(round * 3));
    events.reset();
    reg.reset();
    if (round % 2 == 0) store.reset();  // or it stays, unused
    CHECK(eventually([&] { return ended == 2; }, "run() returns"));
    io.stop();
    for (auto& thread : crew) thread.join();
  }
}
