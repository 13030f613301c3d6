// What a view shows while etcd is away or not to be believed: the last list that was good, in this process and, by a file,
// in the next one.
#include <doctest/doctest.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rig/temp_dir.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

const std::string service = "user-service";

/// "a b"; "stale: a b".
std::string shown(const ServiceView& view) {
  const auto list = view.snapshot();
  std::string text = list->stale ? "stale:" : "";
  for (const auto& each : list->instances) text += (text.empty() ? "" : " ") + each->id;
  return text + (list->held > 0 ? ", held " + std::to_string(list->held) : "");
}

void put(const Etcd& etcd, const std::string& id, const std::string& version = "v1") {
  etcd.put(key_of(service, id), encode(instance(service, id, version)));
}

/// Log lines and metrics of one Registry.
class Notes final : public Logger, public Metrics {
 public:
  void log(LogLevel, std::string_view text) noexcept override {
    const std::lock_guard lock(mutex_);
    lines_.emplace_back(text);
  }
  void add(const Metric&, std::string_view, double) noexcept override {}
  void set(const Metric& metric, std::string_view label, double value) noexcept override {
    const std::lock_guard lock(mutex_);
    if (label == service) gauges_[metric.name] = value;
  }
  std::size_t lines(const std::string& part) const {
    const std::lock_guard lock(mutex_);
    std::size_t count = 0;
    for (const auto& line : lines_) count += line.find(part) != std::string::npos ? 1 : 0;
    return count;
  }
  double gauge(const Metric& metric) const {
    const std::lock_guard lock(mutex_);
    const auto found = gauges_.find(metric.name);
    return found == gauges_.end() ? -1 : found->second;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::string> lines_;
  std::map<std::string_view, double> gauges_;
};

/// A process that follows services.
struct Client {
  Client(const Etcd& etcd, RegistryConfig config)
      : store(pool.get_executor(), connector_config(etcd.endpoint())),
        reg(store, std::move(config), Observer(notes, notes)) {}

  ServiceView view() { return run(reg.subscribe(service)); }
  template <class T>
  T run(asio::awaitable<T> work) {
    return rig::run(pool, std::move(work));
  }

  std::shared_ptr<Notes> notes = std::make_shared<Notes>();
  asio::thread_pool pool{2};
  etcd::Connector store;
  Registry reg;
};

struct Folder {
  TempDir temp;
  std::string path = temp.path() + "/lists";
  std::string file = path + "/" + service + ".json";

  RegistryConfig config() const {
    RegistryConfig config = quick_config();
    config.last_known_good_folder = path;
    return config;
  }
  std::string text() const {
    std::ifstream in(file);
    return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
  }
};

}  // namespace

TEST_CASE(
    "last known good: etcd is stopped: the view serves on and says stale; back with other contents: right, "
    "and not stale") {
  Etcd etcd;
  put(etcd, "a");
  put(etcd, "b");
  Client client(etcd, quick_config());
  const ServiceView view = client.view();
  REQUIRE(shown(view) == "a b");
  const auto fresh_at = view.snapshot()->as_of;
  etcd.kill();
  CHECK(rig::eventually([&] { return shown(view) == "stale: a b"; }, 10s, "stale"));
  CHECK(view.snapshot()->as_of >= fresh_at);
  const auto stale_since = view.snapshot()->as_of;
  CHECK(holds_for(1s, [&] { return shown(view) == "stale: a b" && view.snapshot()->as_of == stale_since; }));
  etcd.restart_wiped("another");
  put(etcd, "b", "v2");
  put(etcd, "c");
  CHECK(rig::eventually([&] { return shown(view) == "b c"; }, 15s, "the new contents"));
  CHECK(view.snapshot()->find("b")->version == "v2");
  CHECK(view.snapshot()->as_of > stale_since);
}

TEST_CASE(
    "last known good: a client that starts while etcd is down serves what the file says, and says stale") {
  Etcd etcd;
  const Folder folder;
  put(etcd, "a");
  put(etcd, "b");
  {
    Client before(etcd, folder.config());
    const ServiceView view = before.view();
    put(etcd, "c");
    CHECK(rig::eventually([&] { return shown(view) == "a b c"; }, 10s, "c"));
    CHECK(rig::eventually([&] { return folder.text().find("/c\"") != std::string::npos; }, 10s,
                          "the file has c"));
    put(etcd, "d");
    CHECK(rig::eventually([&] { return shown(view) == "a b c d"; }, 10s, "d"));
    before.run(before.reg.close());  // and with that the file is up to date
  }
  CHECK(folder.text().find("/d\"") != std::string::npos);
  CHECK_FALSE(fs::exists(folder.file + ".tmp"));
  etcd.kill();

  Client after(etcd, folder.config());
  EventLog events(after.pool, after.reg.watch(service));
  const auto begun = std::chrono::steady_clock::now();
  const ServiceView view = after.view();
  CHECK(shown(view) == "stale: a b c d");
  CHECK(view.snapshot()->as_of < begun);
  CHECK(after.notes->lines("beginning with 4 instances") == 1);
  CHECK(after.notes->gauge(metric::service_instances) == 4);
  CHECK(rig::eventually([&] { return events.size() == 4; }, 5s, "four events"));
  CHECK_THROWS_AS(after.run(after.reg.get_service(service)), std::system_error);  // it asks the store

  SUBCASE("back as it was: no event, fresh") {
    etcd.start();
    CHECK(rig::eventually([&] { return shown(view) == "a b c d"; }, 15s, "fresh"));
    CHECK(events.size() == 4);
  }
  SUBCASE("back with other contents: the difference, marked as resynced") {
    etcd.restart_wiped("another");
    put(etcd, "b", "v2");
    CHECK(rig::eventually([&] { return shown(view) == "b"; }, 15s, "the new contents"));
    CHECK(view.snapshot()->find("b")->version == "v2");
    // The list may have been read before b was put again.
    const auto removed = [&events] {
      std::map<std::string, int> times;
      for (const auto& event : events.all()) {
        if (event.type != EventType::Delete) continue;
        CHECK(event.resynced);
        if (event.service.id != "b") ++times[event.service.id];
      }
      return times;
    };
    const std::map<std::string, int> once = {{"a", 1}, {"c", 1}, {"d", 1}};
    CHECK(rig::eventually([&] { return removed() == once; }, 5s, "each is removed, once"));
  }
}

TEST_CASE(
    "last known good: a file that is broken, or of others, is refused by name and left until there is a good "
    "list") {
  Etcd etcd;
  const Folder folder;
  put(etcd, "a");
  fs::create_directories(folder.path);
  std::string bad;
  SUBCASE("cut off") { bad = "{\"format\": \"registry-memory-store-1\", \"pai"; }
  SUBCASE("empty") {}
  SUBCASE("of another namespace") {
    bad =
        "{\"format\": \"registry-memory-store-1\", \"store_id\": \"1\", \"revision\": 2, \"leases\": [], "
        "\"pairs\": [{\"key\": "
        "\"/other/user-service/a\", \"value\": \"{}\", \"create_revision\": 2, \"mod_revision\": 2, "
        "\"lease\": 0}]}";
  }
  std::ofstream(folder.file) << bad;
  etcd.kill();
  Client client(etcd, folder.config());
  CHECK_THROWS_AS(client.view(), std::system_error);
  CHECK(client.notes->lines("last known good list not used: ") == 1);
  CHECK(client.notes->lines(folder.file) >= 1);
  CHECK(folder.text() == bad);
  etcd.start();
  const ServiceView view = client.view();
  CHECK(shown(view) == "a");
  client.run(client.reg.close());
  CHECK(folder.text().find("/a\"") != std::string::npos);
}

TEST_CASE("last known good: a folder that cannot be written is said once, and nothing else suffers") {
  Etcd etcd;
  const Folder folder;
  std::ofstream(folder.path) << "a file stands where the folder should be";
  Client client(etcd, folder.config());
  const ServiceView view = client.view();
  for (int i = 0; i < 3; ++i) {
    put(etcd, "i" + std::to_string(i));
    CHECK(rig::eventually([&] { return view.snapshot()->instances.size() == std::size_t(i) + 1; }, 5s,
                          "one more"));
    CHECK(rig::eventually([&] { return client.notes->lines("not written to") == 1; }, 5s, "said"));
  }
  client.run(client.reg.close());
  CHECK(client.notes->lines("not written to") == 1);
}

TEST_CASE("last known good: wrong credentials are no outage: the file does not hide them") {
  Etcd etcd;
  const Folder folder;
  put(etcd, "a");
  {
    Client before(etcd, folder.config());
    const ServiceView view = before.view();
    before.run(before.reg.close());
  }
  etcd.enable_auth("root", EtcdUser{"svc", "pw", "/genesis/"});
  auto config = connector_config(etcd.endpoint());
  config.username = "svc";
  config.password = "wrong";
  asio::thread_pool pool(1);
  etcd::Connector store(pool.get_executor(), config);
  Registry reg(store, folder.config());
  try {
    rig::run(pool, reg.subscribe(service));
    FAIL("let in");
  } catch (const std::system_error& error) {
    CHECK(error.code() == errc::authentication_failed);
  }
}

TEST_CASE(
    "disappearance guard: a store that comes back empty does not empty the view at once; watches are told") {
  Etcd etcd;
  const Folder folder;
  RegistryConfig config = folder.config();
  config.disappearance_limit = 0.5;
  config.disappearance_hold = 2s;
  for (const std::string id : {"a", "b", "c", "d"}) put(etcd, id);
  Client client(etcd, config);
  const ServiceView view = client.view();
  EventLog events(client.pool, client.reg.watch(service));
  CHECK(rig::eventually([&] { return events.size() == 4; }, 5s, "four events"));
  CHECK(rig::eventually([&] { return folder.text().find("/d\"") != std::string::npos; }, 5s, "the file"));
  const std::string good = folder.text();

  const auto from = std::chrono::steady_clock::now();
  etcd.del_prefix("/genesis/services/" + service + "/");
  CHECK(rig::eventually([&] { return events.size() == 8; }, 5s, "four deletes"));
  CHECK(shown(view) == "a b c d, held 4");
  CHECK(rig::eventually([&] { return client.notes->gauge(metric::held_instances) == 4; }, 5s, "the gauge"));
  CHECK(client.notes->lines("4 instances vanished at once, 0 are left") == 1);

  SUBCASE("believed after the hold") {
    CHECK(holds_for(1s, [&] { return shown(view) == "a b c d, held 4"; }));
    CHECK(folder.text() == good);
    CHECK(rig::eventually([&] { return shown(view) == ""; }, 10s, "believed"));
    CHECK(std::chrono::steady_clock::now() - from >= 2s);
    CHECK(client.notes->gauge(metric::held_instances) == 0);
    CHECK(client.notes->lines("what the store says again") == 1);
  }
  SUBCASE("they come back") {
    put(etcd, "b");
    CHECK(rig::eventually([&] { return shown(view) == "a b c d, held 3"; }, 3s, "one is back"));
    put(etcd, "c");
    CHECK(rig::eventually([&] { return shown(view) == "b c"; }, 3s, "half of them are back"));
  }
  SUBCASE("not while the store is away") {
    etcd.kill();
    CHECK(rig::eventually([&] { return shown(view) == "stale: a b c d, held 4"; }, 3s, "stale"));
    CHECK(holds_for(3s, [&] { return shown(view) == "stale: a b c d, held 4"; }));
    etcd.start();
    CHECK(rig::eventually([&] { return shown(view) == ""; }, 15s, "believed"));
  }
}
