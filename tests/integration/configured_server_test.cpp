// The example configured_server as its users run it: two processes with a file each, on a real etcd. What edits of the files do to
// the store and to gRPC calls, and what a scrape shows.
#include <doctest/doctest.h>
#include <fcntl.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include "registry/model/codec.hpp"
#include "rig/fd.hpp"
#include "rig/grpc_world.hpp"
#include "rig/net.hpp"
#include "rig/process.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/scrape.hpp"
#include "rig/temp_dir.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

const std::string service = "greeter";

/// How soon an edit must be seen.
constexpr auto soon = 2s;

std::string text_of(const std::string& path) {
  std::ifstream in(path);
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

/// A server process and its file.
class Server {
 public:
  Server(const Etcd& etcd, const std::string& id) : id_(id), endpoint_(etcd.endpoint()) {
    write(config("weight: 100"));
    const int out = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    const int in = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    process_ = Process({REGISTRY_CONFIGURED_SERVER, file_, "127.0.0.1:0"}, {}, in, out, out);
    ::close(out);
    ::close(in);
    REQUIRE_MESSAGE(eventually([&] { return says(id + " serves on port"); }, 30s, "it serves"), log());
  }

  std::string config(const std::string& lines) const {
    return "etcd:\n  endpoints: [\"" + endpoint_ +
           "\"]\nregistry:\n  retry_interval: 100ms\n  disappearance_limit: 0.5\ninstance:\n  name: " +
           service + "\n  id: " + id_ + "\n  ttl: 5s\n  " + lines +
           "\nserver:\n  listen_address: \"127.0.0.1:0\"\nlog_level: info\n";
  }
  /// As editors do it.
  void edit(const std::string& text) {
    write(text, ".new");
    fs::rename(file_ + ".new", file_);
  }

  std::string log() const { return text_of(log_); }
  bool says(const std::string& part) const { return log().find(part) != std::string::npos; }
  std::string metrics() const { return http_get(address(), "/metrics"); }
  Scrape scrape() const { return Scrape(metrics()); }
  int stop() {
    process_.signal(SIGTERM);
    const auto code = process_.wait(20s);
    return code ? *code : -1;
  }

 private:
  std::string address() const {
    const std::string mark = "metrics at port ", text = log();
    const auto at = text.find(mark) + mark.size();
    return "127.0.0.1:" + text.substr(at, text.find(',', at) - at);
  }
  void write(const std::string& text, const std::string& suffix = "") {
    std::ofstream(file_ + suffix) << text;
  }

  TempDir folder_;
  const std::string id_, endpoint_, file_ = folder_ / "server.yaml", log_ = folder_ / "log";
  Process process_;
};

ServiceInstance stored(const Etcd& etcd, const std::string& id) {
  const auto entry = etcd.entry(key_of(service, id));
  return entry ? decode(entry->value, service, id).instance : ServiceInstance();
}

}  // namespace

TEST_CASE(
    "configured server: an edit of the file changes what etcd and gRPC see; a broken one changes nothing and "
    "says why") {
  Etcd etcd;
  Server a(etcd, "a"), b(etcd, "b");
  asio::thread_pool pool(2);
  etcd::Connector store(pool.get_executor(), connector_config(etcd.endpoint()));
  Registry reg(store, quick_config());
  Resolver resolver(reg);
  const auto channel = grpc::CreateChannel(resolver.target(service), grpc::InsecureChannelCredentials());
  const auto stub = greeter::Greeter::NewStub(channel);
  // Calls until each of `ids`, and nobody else, has answered ten in a row.
  const auto served_by = [&](const std::string& only) {
    for (int i = 0; i < 10; ++i) {
      const Hello made = hello(*stub, 5s, true);
      if (!made.status.ok() || made.served_by != only) return false;
    }
    return true;
  };
  const auto before = etcd.entry(key_of(service, "a"));
  REQUIRE(before);
  CHECK(stored(etcd, "a").weight() == 100);

  auto edited = std::chrono::steady_clock::now();
  a.edit(a.config("weight: 0"));
  CHECK(eventually([&] { return stored(etcd, "a").weight() == 0; }, soon, "etcd has the weight"));
  CHECK(eventually([&] { return served_by("b"); }, 10s, "calls go to b"));
  CHECK(std::chrono::steady_clock::now() - edited <= soon + 1s);  // a second for a loaded machine
  CHECK(etcd.entry(key_of(service, "a"))->create_revision == before->create_revision);
  CHECK(etcd.entry(key_of(service, "a"))->lease == before->lease);

  edited = std::chrono::steady_clock::now();
  b.edit(b.config("status: disabled"));
  a.edit(a.config("weight: 7"));
  CHECK(eventually([&] { return served_by("a"); }, 10s, "calls go to a"));
  CHECK(std::chrono::steady_clock::now() - edited <= soon + 1s);
  CHECK(stored(etcd, "a").weight() == 7);
  CHECK(stored(etcd, "b").status() == InstanceStatus::Disabled);

  const auto good = etcd.entry(key_of(service, "a"));
  a.edit(a.config("weihgt: 9"));
  CHECK(eventually([&] { return a.says("server.yaml:10: instance: unknown key \"weihgt\""); }, soon,
                   "it says why"));
  a.edit(a.config("weight: heavy"));
  CHECK(eventually([&] { return a.says("instance.weight = \"heavy\""); }, soon, "it says why"));
  CHECK(holds_for(1s, [&] { return etcd.entry(key_of(service, "a"))->mod_revision == good->mod_revision; }));
  a.edit(a.config("weight: 8"));
  CHECK(eventually([&] { return stored(etcd, "a").weight() == 8; }, soon, "mended"));

  // Another TTL is another lease, and the key never goes.
  std::string longer = a.config("weight: 8");
  longer.replace(longer.find("ttl: 5s"), 7, "ttl: 9s");
  a.edit(longer);
  CHECK(eventually([&] { return etcd.entry(key_of(service, "a"))->lease != good->lease; }, soon,
                   "another lease"));
  CHECK(etcd.entry(key_of(service, "a"))->create_revision == before->create_revision);

  CHECK(a.stop() == 0);
  CHECK_FALSE(etcd.entry(key_of(service, "a")));
  CHECK(b.stop() == 0);
  rig::run(pool, resolver.close());
  rig::run(pool, reg.close());
}

TEST_CASE("configured server: a scrape shows every metric of the table") {
  Etcd etcd;
  Server server(etcd, "a");
  // A chat is passed on through gRPC's resolver: it follows the service, and a bad value in it is skipped.
  etcd.put(key_of(service, "bad"), "no json");
  const auto endpoint = stored(etcd, "a").endpoints.at(0).substr(std::string("grpc://").size());
  const auto stub =
      greeter::Greeter::NewStub(grpc::CreateChannel(endpoint, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto chat = stub->Chat(&context);
  greeter::HelloRequest request;
  greeter::HelloReply reply;
  request.set_name("you");
  REQUIRE(chat->Write(request));
  REQUIRE(chat->Read(&reply));
  CHECK(reply.served_by() == "a");
  chat->WritesDone();
  CHECK(chat->Finish().ok());
  server.edit(server.config("weight: 3"));
  CHECK(eventually([&] { return server.scrape().of_service(metric::watch_events, service) >= 1; }, 10s,
                   "an event"));

  // What else moves: the store goes away and comes back with another history.
  etcd.restart_wiped("another");
  CHECK(
      eventually([&] { return server.scrape().of_service(metric::resyncs, service) >= 1; }, 20s, "a resync"));
  CHECK(eventually([&] { return stored(etcd, "a").weight() == 3; }, 20s, "it is back"));
  CHECK(eventually([&] { return server.scrape().of_service(metric::renewals, service) >= 1; }, 10s,
                   "a renewal"));

  // Most of the service vanishes at once; the file is edited once more, and broken.
  for (const std::string id : {"x", "y", "z"}) etcd.put(key_of(service, id), encode(instance(service, id)));
  CHECK(eventually([&] { return server.scrape().of_service(metric::service_instances, service) == 4; }, 10s,
                   "4"));
  etcd.del_prefix(key_of(service, "x"));
  etcd.del_prefix(key_of(service, "y"));
  etcd.del_prefix(key_of(service, "z"));
  CHECK(eventually([&] { return server.scrape().of_service(metric::held_instances, service) >= 1; }, 10s,
                   "held"));
  server.edit("log_level: loud");
  CHECK(
      eventually([&] { return server.scrape().value(metric::configuration_failures) == 1; }, 10s, "broken"));
  CHECK(server.scrape().value(metric::configuration_reloads) == 1);

  check_with_promtool(server.metrics());
  const Scrape scrape = server.scrape();
  for (const Metric& each : metric::all) {
    if (each.name == metric::registration_failures.name) continue;  // who cannot register does not serve
    CAPTURE(each.name);
    const Family& family = scrape[each.name];
    CHECK(family.help == each.help);
    CHECK(family.type == (each.kind == Metric::Kind::Counter ? "counter" : "gauge"));
    CHECK_FALSE(family.series.empty());
  }
  CHECK(scrape.of_service(metric::registrations, service) == 1);
  CHECK(scrape.of_service(metric::registered_instances, service) == 1);
  CHECK(scrape.of_service(metric::service_instances, service) == 1);
  CHECK(scrape.of_service(metric::skipped_values, service) >= 1);
  CHECK(scrape.of_service(metric::reconnects, service) >= 1);
  CHECK(scrape.of_service(metric::endpoint_failures, service) >= 1);
  CHECK(scrape.of_service(metric::resolver_updates, service) >= 1);
  CHECK(server.stop() == 0);
}
