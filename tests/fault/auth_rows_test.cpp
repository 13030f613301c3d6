// The rows of the acceptance table about users: tokens that run out or are lost, users that go and come back,
// permissions, and authentication that is switched on and off under a running client.
#include <doctest/doctest.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <ostream>
#include <string>
#include <string_view>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "rig/raw_etcd.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

const std::string service = "user-service";
const std::string key = key_of(service, "user-1");
const EtcdUser user{"svc", "svcpw", "/genesis/"};
const std::string root_password = "rootpw";

// --- versions -------------------------------------------------------------------------------------------------

using Version = std::tuple<int, int, int>;

Version version_of(const Etcd& etcd) {
  int major = 0, minor = 0, patch = 0;
  const auto text = http_get(etcd.endpoint(), "/version");
  REQUIRE(std::sscanf(text.c_str(), R"({"etcdserver":"%d.%d.%d)", &major, &minor, &patch) == 3);
  return Version(major, minor, patch);
}

/// The lease calls, Status and MemberList want a valid token, and each renewal is checked against the keys of
/// its lease.
bool leases_are_checked(const Version& version) {
  if (version >= Version(3, 6, 0)) return version >= Version(3, 6, 9);
  if (version >= Version(3, 5, 0)) return version >= Version(3, 5, 28);
  return version >= Version(3, 4, 42);
}

/// Asking for the keys of a lease takes the permission to read them (CVE-2023-32082).
bool keys_of_leases_are_checked(const Version& version) {
  if (version >= Version(3, 5, 0)) return version >= Version(3, 5, 9);
  return version >= Version(3, 4, 26);
}

/// Only root may ask for the status.
bool status_is_for_root(const Version& version) {
  return (version >= Version(3, 5, 28) && version <= Version(3, 5, 31)) ||
         (version >= Version(3, 6, 9) && version <= Version(3, 6, 11));
}

/// The same of the list of members.
bool members_are_for_root(const Version& version) {
  return version == Version(3, 5, 28) || version == Version(3, 6, 9);
}

// --- a world with users ---------------------------------------------------------------------------------------

struct Counters : Metrics {
  void add(const registry::Metric& metric, std::string_view label, double amount) noexcept override {
    const std::lock_guard lock(mutex);
    totals[{std::string(metric.name), std::string(label)}] += amount;
  }
  double total(const std::string& name, const std::string& label) {
    const std::lock_guard lock(mutex);
    return totals[{name, label}];
  }
  std::mutex mutex;
  std::map<std::pair<std::string, std::string>, double> totals;
};

/// observer() with counters.
Observer counted(const std::shared_ptr<Counters>& counters) {
  struct Printer : Logger {
    Observer to = observer();
    void log(LogLevel level, std::string_view text) noexcept override { to.log(level, text); }
  };
  return Observer(std::make_shared<Printer>(), counters);
}

EtcdOptions with_users(std::chrono::seconds token_ttl = 300s, std::vector<std::string> flags = {}) {
  EtcdOptions options;
  options.auth_token_ttl = token_ttl;
  options.root_password = root_password;
  options.users = {user};
  options.flags = std::move(flags);
  return options;
}

etcd::ConnectorConfig login_config(const std::string& endpoint, const std::string& name = user.name,
                                   const std::string& password = user.password) {
  auto config = connector_config(endpoint);
  config.username = name;
  config.password = password;
  return config;
}

/// Calls that run at the same time, and how they ended.
class Calls {
 public:
  explicit Calls(asio::thread_pool& pool) : pool_(pool) {}

  template <class T>
  void start(const std::string& name, asio::awaitable<T> work) {
    {
      const std::lock_guard lock(state_->mutex);
      ++state_->open;
    }
    asio::co_spawn(pool_, text_of(std::move(work)),
                   [state = state_, name](std::exception_ptr, const std::string& text) {
                     const std::lock_guard lock(state->mutex);
                     --state->open;
                     if (!text.empty()) state->failures += name + ": " + text + "\n";
                   });
  }

  /// Waits for all of them. What failed, and why; empty when nothing did.
  std::string failures(std::chrono::milliseconds limit = patience) {
    const bool ended = eventually(
        [&] {
          const std::lock_guard lock(state_->mutex);
          return state_->open == 0;
        },
        limit, "all calls have ended");
    const std::lock_guard lock(state_->mutex);
    return state_->failures + (ended ? "" : "some calls did not end\n");
  }

 private:
  struct State {
    std::mutex mutex;
    int open = 0;
    std::string failures;
  };
  asio::thread_pool& pool_;
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

struct AuthWorld {
  explicit AuthWorld(EtcdOptions options = with_users(), std::string password = user.password)
      : AuthWorld(std::move(options),
                  [&](const std::string& endpoint) { return login_config(endpoint, user.name, password); }) {}

  template <class Settings>
  AuthWorld(EtcdOptions options, Settings settings)
      : etcd(std::move(options)),
        gate(etcd.endpoint()),
        pool(2),
        store(pool.get_executor(), settings(gate.endpoint()), observer()),
        reg(store, quick_config(), counted(counters)),
        raw({etcd.endpoint()}) {}

  template <class T>
  T run(asio::awaitable<T> work, std::chrono::milliseconds limit = patience) {
    return rig::run(pool, std::move(work), limit);
  }

  /// Of everybody, etcdctl and `raw` included.
  int authentications() const {
    return static_cast<int>(etcd.metric("grpc_server_started_total", "grpc_method=\"Authenticate\""));
  }
  int streams_ended() const {
    return static_cast<int>(etcd.metric("grpc_server_handled_total", "grpc_method=\"Watch\""));
  }
  double breaks(const std::string& of = service) { return counters->total("registry_reconnects_total", of); }

  void root_login() { REQUIRE(raw.login("root", root_password)); }
  void must(std::vector<std::string> command) const {
    const Output done = etcd.ctl(std::move(command));
    REQUIRE_MESSAGE(done.ok(), done.err);
  }
  void put(const std::string& id, const std::string& version = "v1") {
    REQUIRE(raw.put(key_of(service, id), encode(instance(service, id, version))));
  }
  /// The lease that holds the key; 0 when the key is not there.
  std::int64_t lease_of(const std::string& of = key) {
    const auto found = raw.list(of);
    return found.size() == 1 ? found[0].lease : 0;
  }

  /// Everything a program does, once, one after the other. What failed, and why.
  std::string use(const std::string& id) {
    ++uses;
    Calls calls(pool);
    const auto step = [&](const char* name, auto work) {
      calls.start(name, std::move(work));
      return calls.failures().empty();
    };
    const std::string version = "used-" + std::to_string(uses);
    step("update_instance", reg.update_instance(instance(service, id, version)));
    step("get_service", reg.get_service(service));
    step("list_services", reg.list_services());
    step("subscribe", reg.subscribe("new-service-" + std::to_string(uses)));
    step("register_instance", reg.register_instance(instance("other-service", version), 60s));
    step("deregister", reg.deregister(version));
    return calls.failures();
  }

  std::shared_ptr<Counters> counters = std::make_shared<Counters>();
  int uses = 0;
  Etcd etcd;
  Gate gate;
  asio::thread_pool pool;
  etcd::Connector store;
  Registry reg;
  RawEtcd raw;
};

bool says(const std::string& text, const std::string& part) {
  CAPTURE(text);
  CAPTURE(part);
  const bool found = text.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

bool stale(const ServiceView& view) { return view.snapshot()->stale; }

bool has(const ServiceView& view, const std::string& id) {
  for (const auto& each : view.snapshot()->instances)
    if (each->id == id) return true;
  return false;
}

bool saw(const EventLog& log, const std::string& id, const std::string& version = "v1") {
  for (const auto& event : log.all())
    if (event.service.id == id && event.service.version == version) return true;
  return false;
}

/// A consumer that applies the events sees each change once, in order, and nothing folded.
void check_uninterrupted(const EventLog& log) {
  std::int64_t last = 0;
  for (const auto& event : log.all()) {
    CHECK_FALSE(event.resynced);
    CHECK(event.revision > last);
    last = event.revision;
  }
}

/// Of the first loss.
std::error_code lost_reason(const RegistrationLog& log) {
  for (const auto& event : log.all())
    if (event.state == RegistrationState::Lost) return event.reason;
  return std::error_code();
}

}  // namespace

// --- A1: tokens that run out ----------------------------------------------------------------------------------

TEST_CASE(
    "A1: a token ran out in 6 s of idleness: each kind of call is transparent and costs one login at most") {
  AuthWorld world(with_users(3s));
  const bool checked = leases_are_checked(version_of(world.etcd));
  world.root_login();
  const auto to_renew = world.raw.grant(60s), to_revoke = world.raw.grant(60s), to_ask = world.raw.grant(60s);
  REQUIRE(world.raw.put("/genesis/there", "value"));
  const std::int64_t behind = world.raw.revision() + 1;

  enum Kind { Range, Put, Txn, Delete, Grant, Revoke, KeepAlive, TimeToLive, Leases, Watch, Kinds };
  std::vector<std::unique_ptr<etcd::Connector>> stores;
  for (int kind = 0; kind < Kinds; ++kind) {
    stores.push_back(std::make_unique<etcd::Connector>(world.pool.get_executor(),
                                                       login_config(world.gate.endpoint()), observer()));
    world.run(stores.back()->connect());
  }
  // The last one has a stream that is open with the token that will run out.
  auto old_watch = stores[Watch]->watch(KeyRange("/genesis/old"), behind);
  REQUIRE(world.run(old_watch.next()));
  std::this_thread::sleep_for(6s);

  const auto costs = [&](auto work) {
    const int before = world.authentications();
    CHECK(world.run(text_of(std::move(work))) == "");
    return world.authentications() - before;
  };
  etcdpb::RangeRequest range;
  range.set_key("/genesis/there");
  CHECK(costs(stores[Range]->range(range)) == 1);
  etcdpb::PutRequest put;
  put.set_key("/genesis/put");
  CHECK(costs(stores[Put]->put(put)) == 1);
  etcdpb::TxnRequest txn;
  txn.add_success()->mutable_request_put()->set_key("/genesis/txn");
  CHECK(costs(stores[Txn]->txn(txn)) == 1);
  etcdpb::DeleteRangeRequest remove;
  remove.set_key("/genesis/there");
  CHECK(costs(stores[Delete]->delete_range(remove)) == 1);
  etcdpb::LeaseGrantRequest grant;
  grant.set_ttl(60);
  CHECK(costs(stores[Grant]->lease_grant(grant)) == 1);
  etcdpb::LeaseRevokeRequest revoke;
  revoke.set_id(*to_revoke);
  CHECK(costs(stores[Revoke]->lease_revoke(revoke)) == 1);
  // What is answered without raft did not look at the token in older releases.
  CHECK(costs(stores[KeepAlive]->lease_keep_alive(*to_renew)) == (checked ? 1 : 0));
  etcdpb::LeaseTimeToLiveRequest ask;
  ask.set_id(*to_ask);
  CHECK(costs(stores[TimeToLive]->lease_time_to_live(ask)) == (checked ? 1 : 0));
  CHECK(costs(stores[Leases]->lease_leases()) == (checked ? 1 : 0));
  // A new watch, while the stream of the old one was opened with the old token.
  auto new_watch = stores[Watch]->watch(KeyRange("/genesis/new"), behind);
  CHECK(costs(new_watch.next()) <= 1);
  // Both deliver, and the applied writes were applied once.
  REQUIRE(world.raw.put("/genesis/old", "1"));
  REQUIRE(world.raw.put("/genesis/new", "2"));
  CHECK(world.run(old_watch.next())->changes.at(0).kv.value == "1");
  CHECK(world.run(text_of(new_watch.next())) == "");
  CHECK(world.raw.list("/genesis/there").empty());
  CHECK(world.raw.list("/genesis/put").size() == 1);
  CHECK(world.raw.list("/genesis/txn").size() == 1);
}

TEST_CASE("A1: a token ran out: 200 calls at once share one login, and the watches that run notice nothing") {
  AuthWorld world(with_users(3s));
  world.root_login();
  Oracle oracle({world.etcd.endpoint()}, "/genesis/services/" + service + "/",
                RawLogin{"root", root_password});
  EventLog log(world.pool, world.reg.watch(service));
  RegistrationLog states(world.pool, world.reg.registration_events());
  const auto registration = world.run(world.reg.register_instance(instance(service, "user-1"), 60s));
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(eventually([&] { return log.size() == 1; }));
  const int ended = world.streams_ended();
  CHECK(holds_for(6s, [&] { return !stale(view); }));

  // What a watch was created with is not checked again: it goes on.
  world.put("user-2");
  CHECK(eventually([&] { return saw(log, "user-2") && has(view, "user-2"); }));
  const int before = world.authentications();
  Calls calls(world.pool);
  for (int i = 0; i < 50; ++i) {
    etcdpb::PutRequest put;
    put.set_key("/genesis/burst/" + std::to_string(i));
    calls.start("put", world.store.put(put));
    calls.start("get_service", world.reg.get_service(service));
    calls.start("list_services", world.reg.list_services());
    calls.start("lease_keep_alive", world.store.lease_keep_alive(registration.lease));
  }
  CHECK(calls.failures() == "");
  CHECK(world.authentications() - before == 1);
  CHECK(world.raw.list("/genesis/burst/").size() == 50);

  // New watches need a new stream; the old one stays.
  EventLog late(world.pool, world.reg.watch("other-service"));
  const auto late_view = world.run(world.reg.subscribe("third-service"));
  CHECK(world.run(text_of(world.reg.update_instance(instance(service, "user-1", "v2")))) == "");
  REQUIRE(world.raw.put(key_of("other-service", "other-1"), encode(instance("other-service", "other-1"))));
  REQUIRE(world.raw.put(key_of("third-service", "third-1"), encode(instance("third-service", "third-1"))));
  CHECK(eventually([&] { return saw(late, "other-1") && has(late_view, "third-1"); }));
  CHECK(eventually([&] { return saw(log, "user-1", "v2"); }));
  CHECK(world.streams_ended() == ended);
  CHECK(world.breaks() == 0);
  CHECK_FALSE(stale(view));
  CHECK(states.size() == 1);
  check_uninterrupted(log);
  // Nothing lost: what the watch showed is what the oracle saw.
  const auto truth = oracle.finish();
  CHECK(eventually([&] { return log.size() == truth.size(); }));
  const auto seen = log.all();
  for (std::size_t i = 0; i < std::min(seen.size(), truth.size()); ++i)
    CHECK(seen[i].revision == truth[i].mod_revision);
  world.run(world.reg.close());
}

TEST_CASE(
    "A1: tokens live 1 s: renewals, writes, watches and the registration go on for 6 s, with few logins") {
  AuthWorld world(with_users(1s));
  world.root_login();
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const int before = world.authentications();
  int rounds = 0;
  std::string failures;
  // Slower than tokens live, so each round meets one that is gone.
  for (const auto end = Clock::now() + 6s; Clock::now() < end; std::this_thread::sleep_for(2200ms)) {
    ++rounds;
    failures += world.use("user-1");
  }
  CHECK(failures == "");
  // The rounds and the renewals, every 0.7 s, that are checked since the releases that check them.
  CHECK(world.authentications() - before <= rounds + 12);
  world.root_login();
  CHECK(world.lease_of() != 0);
  CHECK(states.size() >= 1);
  CHECK(losses(states) == "");
  check_uninterrupted(log);
  world.run(world.reg.close());
}

// --- A4: refused users ----------------------------------------------------------------------------------------

TEST_CASE(
    "A4: a wrong password is said at once and in clear words; a busy Registry asks once a second at most") {
  AuthWorld world(with_users(), std::string("a wrong one"));
  const auto begin = Clock::now();
  const auto text = world.run(text_of(world.store.connect()));
  says(text, "wrong user name or password");
  says(text, world.gate.endpoint());
  CHECK(text.find("a wrong one") == std::string::npos);
  const auto code = world.run(code_of(world.reg.register_instance(instance(service, "user-1"))));
  CHECK(code == errc::authentication_failed);
  CHECK_FALSE(is_retryable(code));
  CHECK_FALSE(is_indeterminate(code));
  CHECK(world.run(code_of(world.reg.get_service(service))) == errc::authentication_failed);
  CHECK(world.run(code_of(world.reg.subscribe(service))) == errc::authentication_failed);
  says(world.run(text_of(world.reg.register_instance(instance(service, "user-1")))),
       "wrong user name or password");
  CHECK(Clock::now() - begin < 2s);

  EventLog log(world.pool, world.reg.watch(service));
  EventLog other(world.pool, world.reg.watch("other-service"));
  const int before = world.authentications();
  const auto watched = Clock::now();
  int calls = 0;
  while (Clock::now() - watched < 4s) {
    for (int i = 0; i < 10; ++i, ++calls) {
      const auto id = "user-" + std::to_string(i);
      CHECK(world.run(code_of(world.reg.register_instance(instance(service, id)))) ==
            errc::authentication_failed);
    }
    std::this_thread::sleep_for(20ms);
  }
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - watched).count();
  CHECK(world.authentications() - before <= seconds + 1);
  CHECK(calls > 50);
  CHECK_FALSE(log.ended());  // a watch waits for better times
  world.run(world.reg.close());
}

namespace {

/// The user cannot log in any more for `away`, while a registration with a TTL of 2 s, a watch and a view run.
template <class Refuse, class Admit>
void refused_for_a_while(Refuse refuse, Admit admit) {
  AuthWorld world;
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(eventually([&] { return log.size() == 1; }));

  refuse(world);
  world.root_login();
  const int before = world.authentications();
  const auto begin = Clock::now();
  // Typed, and soon: not at the end of some timeout.
  CHECK(world.run(code_of(world.reg.get_service(service))) == errc::authentication_failed);
  CHECK(world.run(code_of(world.reg.update_instance(instance(service, "user-1", "refused")))) ==
        errc::authentication_failed);
  CHECK(Clock::now() - begin < 2s);
  // Nobody may renew, so the lease is lost and that is said.
  CHECK(eventually([&] { return has_state(states, RegistrationState::Lost); }, 6s));
  CHECK(lost_reason(states) == errc::authentication_failed);
  CHECK(has(view, "user-1") == (world.lease_of() != 0 || !stale(view)));
  std::this_thread::sleep_for(1s);
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - begin).count();
  CHECK(world.authentications() - before <= seconds + 2);

  admit(world);
  world.root_login();
  CHECK(eventually([&] { return has_state(states, RegistrationState::Restored); }, 6s));
  CHECK(world.lease_of() != 0);
  CHECK(world.run(text_of(world.reg.update_instance(instance(service, "user-1", "v2")))) == "");
  world.put("user-2");
  CHECK(eventually([&] { return saw(log, "user-1", "v2") && saw(log, "user-2"); }));
  CHECK(eventually([&] { return has(view, "user-2") && !stale(view); }));
  CHECK_FALSE(saw(log, "user-1", "refused"));
  CHECK(world.run(world.reg.get_service(service)).size() == 2);
  EventLog late(world.pool, world.reg.watch(service));
  CHECK(eventually([&] { return late.size() == 2; }));
  world.run(world.reg.close());
  CHECK(world.lease_of() == 0);
}

/// etcdctl reads the new password from its input.
void change_password(AuthWorld& world, const std::string& password) {
  const char* const named = std::getenv("REGISTRY_ETCDCTL");
  const std::string etcdctl = find_program(named != nullptr ? named : "etcdctl");
  REQUIRE_FALSE(etcdctl.empty());
  RunOptions options;
  options.env = {"ETCDCTL_API=3"};
  options.input = password + "\n";
  const auto done = rig::run({etcdctl, "--endpoints=" + world.etcd.url(), "--user=root:" + root_password,
                              "user", "passwd", user.name, "--interactive=false"},
                             options);
  REQUIRE_MESSAGE(done.ok(), done.err);
}

}  // namespace

TEST_CASE("A4: the user is deleted while in use: a typed error, no storm, and all is well once it is back") {
  refused_for_a_while(
      [](AuthWorld& world) {
        world.must({"user", "delete", user.name});
      },
      [](AuthWorld& world) {
        world.must({"user", "add", user.name + ":" + user.password});
        world.must({"user", "grant-role", user.name, user.name});
      });
}

TEST_CASE(
    "A4: the password is changed while in use: a typed error, no storm, and all is well once it is back") {
  refused_for_a_while([](AuthWorld& world) { change_password(world, "another"); },
                      [](AuthWorld& world) { change_password(world, user.password); });
}

TEST_CASE(
    "A4: the permission is revoked while in use: permission_denied, and all is well once it is granted "
    "again") {
  AuthWorld world;
  const bool checked = leases_are_checked(version_of(world.etcd));
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  CHECK(eventually([&] { return log.size() == 1; }));

  world.must({"role", "revoke-permission", user.name, user.prefix, "--prefix=true"});
  world.root_login();
  const int before = world.authentications();
  const auto begin = Clock::now();
  CHECK(world.run(code_of(world.reg.get_service(service))) == errc::permission_denied);
  CHECK(world.run(code_of(world.reg.subscribe("other-service"))) == errc::permission_denied);
  CHECK(world.run(code_of(world.reg.register_instance(instance(service, "user-3")))) ==
        errc::permission_denied);
  CHECK(world.run(code_of(world.reg.update_instance(instance(service, "user-1", "denied")))) ==
        errc::permission_denied);
  CHECK(Clock::now() - begin < 2s);
  EventLog late(world.pool, world.reg.watch("other-service"));  // waits for the permission
  if (checked) {
    // The server does not renew the lease of a key that we may not write.
    CHECK(eventually([&] { return has_state(states, RegistrationState::Lost); }, 6s));
    CHECK(lost_reason(states) == errc::permission_denied);
    CHECK(eventually([&] { return world.lease_of() == 0; }, 6s));
  } else {
    CHECK(holds_for(4s, [&] { return world.lease_of() != 0; }));
    CHECK(losses(states) == "");
  }
  CHECK_FALSE(late.ended());
  CHECK(world.authentications() - before <= 2);  // the token is good

  world.must({"role", "grant-permission", user.name, "readwrite", user.prefix, "--prefix=true"});
  if (checked) CHECK(eventually([&] { return has_state(states, RegistrationState::Restored); }, 6s));
  CHECK(world.run(text_of(world.reg.update_instance(instance(service, "user-1", "v2")))) == "");
  CHECK(world.lease_of() != 0);
  REQUIRE(world.raw.put(key_of("other-service", "other-1"), encode(instance("other-service", "other-1"))));
  CHECK(eventually([&] { return saw(late, "other-1") && saw(log, "user-1", "v2"); }));
  CHECK_FALSE(saw(log, "user-1", "denied"));
  world.run(world.reg.close());
}

// --- A6: an ordinary user -------------------------------------------------------------------------------------

TEST_CASE(
    "A6: status and members may be for root alone; an ordinary user registers and follows all the same") {
  AuthWorld world;
  const auto version = version_of(world.etcd);
  world.root_login();
  // A key of somebody else's, on a lease.
  const auto theirs = world.raw.grant(60s);
  REQUIRE(world.raw.put("/elsewhere/key", "theirs", *theirs));

  const std::error_code fine, denied = make_error_code(errc::permission_denied);
  CHECK(world.run(code_of(world.store.status())) == (status_is_for_root(version) ? denied : fine));
  CHECK(world.run(code_of(world.store.member_list())) == (members_are_for_root(version) ? denied : fine));
  // Listing leases takes the permission on the keys of all of them, since leases are checked.
  CHECK(world.run(code_of(world.store.lease_leases())) == (leases_are_checked(version) ? denied : fine));
  etcdpb::LeaseTimeToLiveRequest ask;
  ask.set_id(*theirs);
  ask.set_keys(true);
  CHECK(world.run(code_of(world.store.lease_time_to_live(ask))) ==
        (keys_of_leases_are_checked(version) ? denied : fine));

  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(world.use("user-1") == "");
  CHECK(holds_for(3s, [&] { return world.lease_of() != 0; }));
  world.put("user-2");
  CHECK(eventually([&] { return saw(log, "user-2") && has(view, "user-2"); }));
  CHECK(world.run(world.reg.get_service(service)).size() == 2);
  CHECK(losses(states) == "");
  CHECK(world.breaks() == 0);
  world.run(world.reg.close());
  CHECK(world.lease_of() == 0);
}

// --- authentication that is switched on and off ---------------------------------------------------------------

TEST_CASE(
    "auth: switched on under a client without user and password: that is said, and off again all is well") {
  AuthWorld world(EtcdOptions(), [](const std::string& endpoint) { return connector_config(endpoint); });
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  CHECK(eventually([&] { return log.size() == 1; }));
  world.etcd.enable_auth(root_password, user);
  world.root_login();

  const auto begin = Clock::now();
  const auto text = world.run(text_of(world.reg.get_service(service)));
  says(text, "user name is empty");
  // It is no session of ours that ended, and trying again is of no use.
  CHECK(text.find("session token") == std::string::npos);
  const auto code = world.run(code_of(world.reg.register_instance(instance(service, "user-3"))));
  CAPTURE(code.message());
  CHECK_FALSE(is_retryable(code));
  CHECK_FALSE(is_indeterminate(code));
  CHECK(Clock::now() - begin < 2s);

  world.etcd.disable_auth();
  RawEtcd nobody({world.etcd.endpoint()});
  CHECK(eventually([&] { return nobody.list(key).size() == 1; }, 6s));
  CHECK(world.run(text_of(world.reg.update_instance(instance(service, "user-1", "v2")))) == "");
  CHECK(eventually([&] { return saw(log, "user-1", "v2"); }));
  world.run(world.reg.close());
}

TEST_CASE("auth: switched on, and later off, under a client with user and password: it notices nothing") {
  AuthWorld world(EtcdOptions(), [](const std::string& endpoint) { return login_config(endpoint); });
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(world.use("user-1") == "");

  world.etcd.enable_auth(root_password, user);
  CHECK(world.use("user-1") == "");
  EventLog secure(world.pool, world.reg.watch(service));
  CHECK(eventually([&] { return secure.size() == 1; }));
  CHECK(holds_for(3s, [&] { return world.etcd.entry(key).has_value(); }));  // longer than the TTL

  // We hold a token: some releases refuse any token while authentication is off.
  world.etcd.disable_auth();
  CHECK(world.use("user-1") == "");
  EventLog plain(world.pool, world.reg.watch(service));
  CHECK(eventually([&] { return plain.size() == 1; }));
  CHECK(holds_for(3s, [&] { return world.etcd.entry(key).has_value(); }));

  world.etcd.put(key_of(service, "user-2"), encode(instance(service, "user-2")));
  CHECK(eventually([&] { return saw(log, "user-2") && saw(secure, "user-2") && saw(plain, "user-2"); }));
  CHECK(eventually([&] { return has(view, "user-2"); }));
  CHECK_FALSE(stale(view));
  CHECK(world.breaks() == 0);
  CHECK(losses(states) == "");
  check_uninterrupted(log);
  world.run(world.reg.close());
}

TEST_CASE("auth: the server restarts and forgets its tokens: one login, and everything goes on") {
  AuthWorld world;
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 5s));
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(eventually([&] { return log.size() == 1; }));
  for (int round = 0; round < 2; ++round) {
    world.etcd.kill();
    world.etcd.restart();  // its counters begin at zero
    CHECK(world.use("user-1") == "");
    // Pure bound: the watches are back one backoff step after the server; the first step is 100 ms here.
    CHECK(eventually([&] { return !stale(view); }, 3s));
    CHECK(world.authentications() <= 2);
    world.root_login();
    const auto id = "user-" + std::to_string(round + 2);
    world.put(id);
    CHECK(eventually([&] { return saw(log, id) && has(view, id); }));
  }
  CHECK(losses(states) == "");
  check_uninterrupted(log);
  world.run(world.reg.close());
}

// --- JWT ------------------------------------------------------------------------------------------------------

namespace {

/// Files for a server that signs its tokens.
struct SigningKey {
  SigningKey() {
    make({"openssl", "genrsa", "-out", dir / "private.pem", "2048"});
    make({"openssl", "rsa", "-in", dir / "private.pem", "-pubout", "-out", dir / "public.pem"});
  }
  static void make(std::vector<std::string> command) {
    const auto done = rig::run(std::move(command));
    REQUIRE_MESSAGE(done.ok(), done.err);
  }
  std::vector<std::string> flags(const std::string& ttl) const {
    return {"--auth-token=jwt,pub-key=" + dir / "public.pem" + ",priv-key=" + dir / "private.pem" +
            ",sign-method=RS256,ttl=" + ttl};
  }
  TempDir dir;
};

}  // namespace

TEST_CASE("auth: JWT: every change of a user or role makes the token old, which nobody notices") {
  SigningKey signing;
  AuthWorld world(with_users(300s, signing.flags("5m")));
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  const auto registration = world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const auto view = world.run(world.reg.subscribe(service));
  CHECK(eventually([&] { return log.size() == 1; }));
  const auto change = [&](int round) { world.must({"role", "add", "role-" + std::to_string(round)}); };
  for (int round = 0; round < 4; ++round) {
    change(round);
    CHECK(world.use("user-1") == "");
  }
  // The first to meet the old token may be a renewal, a new watch, or many at once.
  change(10);
  CHECK(world.run(text_of(world.store.lease_keep_alive(registration.lease))) == "");
  change(11);
  EventLog late(world.pool, world.reg.watch(service));
  CHECK(eventually([&] { return late.size() == 1; }));
  change(12);
  const int before = world.authentications();
  Calls calls(world.pool);
  for (int i = 0; i < 100; ++i) calls.start("get_service", world.reg.get_service(service));
  CHECK(calls.failures() == "");
  CHECK(world.authentications() - before <= 1);  // none if a renewal was the first to meet it

  world.root_login();
  CHECK(holds_for(3s, [&] { return world.lease_of() != 0; }));
  world.put("user-2");
  CHECK(eventually([&] { return saw(log, "user-2") && saw(late, "user-2") && has(view, "user-2"); }));
  CHECK_FALSE(stale(view));
  CHECK(world.breaks() == 0);
  CHECK(losses(states) == "");
  check_uninterrupted(log);
  world.run(world.reg.close());
}

TEST_CASE("auth: JWT: users change all the time: calls go on, none fails for an old token") {
  SigningKey signing;
  AuthWorld world(with_users(300s, signing.flags("5m")));
  RegistrationLog states(world.pool, world.reg.registration_events());
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const auto end = Clock::now() + 4s;
  int changes = 0;
  std::thread changing([&] {
    for (; Clock::now() < end; ++changes) world.etcd.ctl({"role", "add", "role-" + std::to_string(changes)});
  });
  // One after the other as fast as they go, several at a time.
  std::atomic<int> rounds = 0;
  auto ask = [](Registry& reg, Clock::time_point until, std::atomic<int>& count) -> asio::awaitable<void> {
    for (; Clock::now() < until; ++count) co_await reg.get_service(service);
  };
  Calls calls(world.pool);
  for (int i = 0; i < 4; ++i) calls.start("get_service", ask(world.reg, end, rounds));
  std::string failures;
  while (Clock::now() < end) failures += world.use("user-1");
  failures += calls.failures();
  changing.join();
  CAPTURE(changes);
  CAPTURE(rounds.load());
  CHECK(changes > 2);
  CHECK(failures == "");
  CHECK(losses(states) == "");
  world.run(world.reg.close());
}

TEST_CASE("auth: JWT: tokens expire after 1 s however much they are used: nobody notices") {
  SigningKey signing;
  AuthWorld world(with_users(300s, signing.flags("1s")));
  RegistrationLog states(world.pool, world.reg.registration_events());
  EventLog log(world.pool, world.reg.watch(service));
  world.run(world.reg.register_instance(instance(service, "user-1"), 2s));
  const int before = world.authentications();
  std::string failures;
  for (const auto end = Clock::now() + 4s; Clock::now() < end;) failures += world.use("user-1");
  CHECK(failures == "");
  CHECK(world.authentications() - before <= 8);
  CHECK(losses(states) == "");
  check_uninterrupted(log);
  world.run(world.reg.close());
}

// --- the poisoned lease ---------------------------------------------------------------------------------------

TEST_CASE(
    "auth: one key of a shared lease may not be written any more: the other keys survive, always there") {
  AuthWorld world;
  const bool checked = leases_are_checked(version_of(world.etcd));
  const std::string good = key_of("good-service", ""), bad = key_of("bad-service", "");
  for (const auto& prefix : {good, bad})
    world.must({"role", "grant-permission", user.name, "readwrite", prefix, "--prefix=true"});
  world.must({"role", "revoke-permission", user.name, user.prefix, "--prefix=true"});
  world.root_login();
  Oracle oracle({world.etcd.endpoint()}, "/genesis/services/", RawLogin{"root", root_password});
  RegistrationLog states(world.pool, world.reg.registration_events());
  constexpr int others = 20;
  Calls calls(world.pool);
  for (int i = 0; i < others; ++i) {
    const auto id = "good-" + std::to_string(i);
    calls.start(id, world.reg.register_instance(instance("good-service", id), 3s));
  }
  calls.start("bad-1", world.reg.register_instance(instance("bad-service", "bad-1"), 3s));
  REQUIRE(calls.failures() == "");
  const std::int64_t shared = world.lease_of(bad);
  for (const auto& entry : world.raw.list(good)) CHECK(entry.lease == shared);

  world.must({"role", "revoke-permission", user.name, bad, "--prefix=true"});
  world.root_login();
  // Twice the TTL: what is not renewed is gone by then.
  CHECK(holds_for(6s, [&] { return world.raw.list(good).size() == others; }));
  for (const auto& event : states.all()) {
    if (event.id == "bad-1" && checked) continue;
    CHECK_FALSE(event.state == RegistrationState::Lost);
  }
  if (checked) {
    CHECK(world.raw.list(bad).empty());
    CHECK(lost_reason(states) == errc::permission_denied);
    for (const auto& entry : world.raw.list(good)) CHECK(entry.lease != shared);
  } else {
    CHECK(world.lease_of(bad) == shared);
    for (const auto& entry : world.raw.list(good)) CHECK(entry.lease == shared);
  }
  for (const auto& event : oracle.events())
    if (event.deleted) CHECK(event.key.starts_with(bad));

  world.must({"role", "grant-permission", user.name, "readwrite", bad, "--prefix=true"});
  world.root_login();
  CHECK(eventually([&] { return world.lease_of(bad) != 0; }, 6s));
  if (checked) CHECK(eventually([&] { return has_state(states, RegistrationState::Restored); }));
  world.run(world.reg.close());
  CHECK(world.raw.list(good).empty());
  CHECK(world.raw.list(bad).empty());
}
