// The rig itself: a fault test is worth no more than the faults are real.
#include <doctest/doctest.h>

#include <rig/certs.hpp>
#include <rig/cluster.hpp>
#include <rig/etcd.hpp>
#include <rig/eventually.hpp>
#include <rig/gate.hpp>
#include <rig/net.hpp>
#include <rig/process.hpp>
#include <rig/temp_dir.hpp>
#include <fcntl.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using rig::Way;

namespace {

constexpr auto a_while = 200ms;  // in which nothing may come

/// Sends back what it gets, one thread a connection.
class Echo {
 public:
  Echo() : listener_(rig::listen_on(port_.number())), thread_([this] { serve(); }) {}
  ~Echo() {
    stop_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    thread_.join();
    for (auto& t : sessions_) t.join();
  }
  std::string endpoint() const { return port_.endpoint(); }
  std::size_t received() const { return received_; }
  std::size_t open() const { return open_; }

 private:
  void serve() {
    while (!stop_) {
      const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC);
      if (fd < 0) {
        std::this_thread::sleep_for(1ms);
        continue;
      }
      ++open_;
      sessions_.emplace_back([this, fd] {
        const rig::Fd owner(fd);
        const timeval step{0, 20000};
        ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &step, sizeof step);
        char buffer[4096];
        while (!stop_) {
          const auto n = ::recv(fd, buffer, sizeof buffer, 0);
          if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) continue;
          if (n <= 0) break;
          received_ += static_cast<std::size_t>(n);
          if (::send(fd, buffer, static_cast<std::size_t>(n), MSG_NOSIGNAL) < 0) break;
        }
        --open_;
      });
    }
  }

  rig::Port port_;
  rig::Fd listener_;
  std::atomic<bool> stop_ = false;
  std::atomic<std::size_t> received_ = 0, open_ = 0;
  std::vector<std::thread> sessions_;
  std::thread thread_;
};

std::string echo(rig::Socket& socket, const std::string& text) {
  socket.send(text);
  return socket.receive_exactly(text.size());
}

}  // namespace

TEST_SUITE_BEGIN("rig");

TEST_CASE("a command's code, output, input and deadline are seen") {
  const auto said = rig::run({"sh", "-c", "cat; echo oops >&2; exit 3"}, {.input = "hello"});
  CHECK(said.code == 3);
  CHECK(said.out == "hello");
  CHECK(said.err == "oops\n");
  CHECK(rig::run({"sh", "-c", "kill -9 $$"}).code == 128 + 9);
  const auto slow = rig::run({"sleep", "60"}, {.deadline = 50ms});
  CHECK(slow.timed_out);
  CHECK(!slow.ok());
  CHECK_THROWS_WITH(rig::run({"no-such-program"}), "no such program: no-such-program");
}

TEST_CASE("a child inherits no descriptor and no ETCD variable, and outlives the thread that started it") {
  ::setenv("ETCD_NAME", "leaked", 1);
  Echo server;
  const rig::Socket open(server.endpoint());
  ::fcntl(open.fd(), F_SETFD, 0);  // as a careless library would leave it
  const auto seen = rig::run({"sh", "-c", "ls /proc/self/fd | wc -l; echo name=$ETCD_NAME"});
  ::unsetenv("ETCD_NAME");
  CHECK(seen.out == "4\nname=\n");  // 0, 1, 2 and the folder that ls reads

  rig::Process child;
  const rig::TempDir dir;
  std::thread([&] {
    child = rig::Process({"sh", "-c", "touch \"$0\"; exec sleep 60", dir / "runs"}, {}, 0, 1, 2);
    CHECK(rig::eventually([&] { return std::filesystem::exists(dir / "runs"); }, "the child runs"));
  }).join();
  CHECK(!child.wait(a_while));
}

TEST_CASE("data survives a kill, not a wipe") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd({.ctl_timeout = 1s});
  for (int round = 0; round < 5; ++round) {
    const auto value = std::to_string(round);
    const auto revision = etcd.put("/a", value);
    etcd.kill();
    CHECK(!etcd.running());
    CHECK_THROWS_AS(etcd.put("/a", "x"), rig::EtcdError);
    etcd.restart();
    CHECK(etcd.get("/a") == value);
    CHECK(etcd.revision() == revision);
  }
  etcd.terminate();
  CHECK(!etcd.running());
  etcd.restart();
  const auto saved = etcd.backup();
  etcd.put("/a", "later");
  etcd.restart_from(saved);
  CHECK(etcd.get("/a") == "4");

  etcd.restart_wiped();
  CHECK(etcd.get("/a") == std::nullopt);
  CHECK(etcd.revision() == 1);
}

TEST_CASE("keys, leases and compaction through etcdctl") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;
  const auto lease = etcd.grant(60s);
  const auto revision = etcd.put("/p/1", "-v with \"quotes\"\n", lease);
  etcd.put("/p/2", "");
  etcd.put("/q", "other");
  const auto all = etcd.get_prefix("/p/");
  REQUIRE(all.size() == 2);
  CHECK(all[0].key == "/p/1");
  CHECK(all[0].value == "-v with \"quotes\"\n");
  CHECK(all[0].lease == lease);
  CHECK(all[0].mod_revision == revision);
  CHECK(all[1].value == "");
  CHECK(etcd.get("/p/2") == "");
  CHECK(etcd.leases() == std::vector{lease});
  etcd.revoke(lease);
  CHECK(etcd.lease_count() == 0);
  CHECK(etcd.get("/p/1") == std::nullopt);
  CHECK(etcd.del("/q") == 1);
  CHECK(etcd.del("/q") == 0);
  CHECK(etcd.del_prefix("/p/") == 1);
  etcd.compact(etcd.revision());
  CHECK(etcd.ctl({"get", "--rev=2", "/p/1"}).err.find("compacted") != std::string::npos);
}

TEST_CASE("a paused server answers nothing, a resumed one goes on") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd({.ctl_timeout = 500ms});
  etcd.pause();
  CHECK(etcd.paused());
  CHECK(!etcd.ctl({"put", "a", "1"}).ok());
  CHECK(!etcd.healthy());
  etcd.resume();
  CHECK(rig::eventually([&] { return etcd.put("a", "2") > 0; }, "the server answers again"));
  CHECK(etcd.get("a") == "2");
  etcd.pause();  // and can be killed, or destroyed, as it is
}

TEST_CASE("a server that cannot start says why") {
  if (rig::skip_without_etcd()) return;
  try {
    rig::Etcd etcd({.flags = {"--no-such-flag"}});
    FAIL("started");
  } catch (const rig::EtcdError& error) {
    CHECK(std::string(error.what()).find("no-such-flag") != std::string::npos);
  }
  CHECK_THROWS_AS(rig::Etcd({.binary = "/no/such/etcd"}), rig::EtcdError);
  CHECK(!rig::Etcd::available("/no/such/etcd"));
}

TEST_CASE("metrics count, by label and in total") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;
  const auto ranges = [&] { return etcd.metric("grpc_server_handled_total", R"(grpc_method="Range")"); };
  const auto before = ranges();
  etcd.get("a");
  CHECK(ranges() == before + 1);
  CHECK(etcd.metric("grpc_server_handled_total", R"(grpc_method="Put")") == 0);
  etcd.put("a", "1");
  CHECK(etcd.metric("grpc_server_handled_total") == ranges() + 1);
  CHECK(etcd.metric("etcd_debugging_mvcc_watcher_total") == 0);
  etcd.grant(60s);
  CHECK(etcd.metric("etcd_debugging_lease_granted_total") == 1);
  CHECK(etcd.metric("no_such_metric") == 0);
  CHECK(etcd.is_leader());
  etcd.kill();
  CHECK_THROWS(etcd.metric("etcd_debugging_lease_granted_total"));
}

TEST_CASE("auth: nothing without a password, only its prefix for a user") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd etcd;
  etcd.put("app/1", "1");
  etcd.enable_auth("rootpw", {"svc", "svcpw", "app/"});
  CHECK(etcd.get("app/1") == "1");
  const auto nobody = etcd.ctl_as("", {"get", "app/1"});
  CHECK(!nobody.ok());
  CHECK(nobody.err.find("user name is empty") != std::string::npos);
  CHECK(!etcd.ctl_as("svc:wrong", {"get", "app/1"}).ok());
  CHECK(etcd.ctl_as("svc:svcpw", {"get", "--print-value-only", "app/1"}).out == "1\n");
  CHECK(etcd.ctl_as("svc:svcpw", {"put", "other", "1"}).err.find("permission denied") != std::string::npos);
  etcd.restart();
  CHECK(etcd.get("app/1") == "1");
  etcd.disable_auth();
  CHECK(etcd.ctl_as("", {"get", "app/1"}).ok());

  rig::Etcd from_start({.root_password = "r", .users = {{"u", "p", "u/"}}});
  CHECK(!from_start.ctl_as("", {"get", "x"}).ok());
  CHECK(from_start.ctl_as("u:p", {"put", "u/1", "x"}).ok());
}

TEST_CASE("TLS and mutual TLS") {
  if (rig::skip_without_etcd()) return;
  const rig::Certs certs({"etcd.example"});
  const auto with = [](const rig::Etcd& etcd, std::vector<std::string> flags) {
    std::vector<std::string> argv{"etcdctl", "--endpoints=" + etcd.endpoint(), "--dial-timeout=1s",
                                  "--command-timeout=1s"};
    argv.insert(argv.end(), flags.begin(), flags.end());
    argv.insert(argv.end(), {"get", "a"});
    return rig::run(argv, {.env = {"ETCDCTL_API=3"}}).ok();
  };
  SUBCASE("server only") {
    rig::Etcd etcd({.tls = certs.server()});
    etcd.put("a", "1");
    CHECK(etcd.get("a") == "1");
    CHECK(etcd.url().starts_with("https://"));
    CHECK(!with(etcd, {}));
    CHECK(with(etcd, {"--cacert=" + certs.ca}));
  }
  SUBCASE("both sides") {
    rig::Etcd etcd({.tls = certs.mutual()});
    etcd.put("a", "1");
    CHECK(!with(etcd, {"--cacert=" + certs.ca}));
    CHECK(with(etcd, {"--cacert=" + certs.ca, "--cert=" + certs.client_cert, "--key=" + certs.client_key}));
  }
  SUBCASE("expired, and a wrong name") {
    rig::Etcd etcd({.tls = certs.expired(), .ctl_timeout = 1s});
    CHECK(!etcd.ctl({"get", "a"}).ok());
    const auto other = certs.issue("other", {"DNS:other.example"});
    rig::Etcd elsewhere({.tls = other, .ctl_timeout = 1s});
    CHECK(!elsewhere.ctl({"get", "a"}).ok());
  }
}

TEST_CASE("three members elect, move their leader, and survive one kill but not two") {
  if (rig::skip_without_etcd()) return;
  rig::Cluster cluster(3);
  CHECK(cluster.endpoints().size() == 3);
  const auto first = cluster.leader();
  const auto second = cluster.follower();
  cluster.move_leader(second);
  CHECK(cluster.leader() == second);
  cluster[second].put("a", "1");
  cluster[second].kill();
  const auto third = cluster.leader();
  CHECK(third != second);
  CHECK(cluster[first].get("a") == "1");
  cluster[second].restart();
  CHECK(cluster[second].get("a") == "1");

  const auto leads = cluster.leader();
  for (std::size_t i = 0; i < 3; ++i)
    if (i != leads) cluster[i].pause();
  const auto leaderless = [&] { return cluster[leads].metric("etcd_server_has_leader") == 0; };
  CHECK(rig::eventually(leaderless, "quorum is lost"));
  for (std::size_t i = 0; i < 3; ++i)
    if (i != leads) cluster[i].resume();
  cluster.wait_ready();
  CHECK(cluster[0].get("a") == "1");
}

TEST_CASE("gate: passes both ways and counts, also ends of streams") {
  Echo server;
  rig::Gate gate(server.endpoint());
  {
    rig::Socket a(gate.endpoint()), b(gate.endpoint());
    CHECK(echo(a, "hello") == "hello");
    CHECK(echo(b, std::string(100000, 'x')) == std::string(100000, 'x'));
    CHECK(gate.connections() == 2);
    CHECK(gate.accepted_total() == 2);
    CHECK(gate.bytes_up() == 100005);
    CHECK(gate.bytes_down() == 100005);
    ::shutdown(a.fd(), SHUT_WR);
    CHECK(a.closed());
  }
  CHECK(rig::eventually([&] { return gate.connections() == 0 && server.open() == 0; }, "both sides closed"));
}

TEST_CASE("gate: cut and close end what is, not what comes") {
  Echo server;
  rig::Gate gate(server.endpoint());
  rig::Socket a(gate.endpoint());
  REQUIRE(echo(a, "1") == "1");
  const rig::Socket not_accepted_yet(gate.endpoint());
  gate.cut();
  CHECK(gate.connections() == 0);
  CHECK(a.closed());
  CHECK(rig::eventually([&] { return server.open() == 0; }, "the server's side is closed"));
  rig::Socket b(gate.endpoint());
  CHECK(echo(b, "2") == "2");
  gate.close();
  CHECK(gate.connections() == 0);
  CHECK(b.closed());
}

TEST_CASE("gate: refuse until accept, on the same port") {
  Echo server;
  rig::Gate gate(server.endpoint());
  rig::Socket a(gate.endpoint());
  REQUIRE(echo(a, "1") == "1");
  gate.refuse();
  CHECK(a.closed());
  CHECK_THROWS_AS(rig::Socket(gate.endpoint()), std::system_error);
  gate.accept();
  rig::Socket b(gate.endpoint());
  CHECK(echo(b, "2") == "2");
  gate.refuse();
  gate.pass();
  rig::Socket c(gate.endpoint());
  CHECK(echo(c, "3") == "3");
}

TEST_CASE("gate: swallow keeps connections and loses bytes") {
  Echo server;
  rig::Gate gate(server.endpoint());
  rig::Socket old(gate.endpoint()), quiet(gate.endpoint());
  REQUIRE(echo(old, "1") == "1");
  REQUIRE(echo(quiet, "2") == "2");
  const auto before = server.received();
  SUBCASE("both ways") {
    gate.swallow();
    rig::Socket fresh(gate.endpoint());
    rig::Socket silent(gate.endpoint());
    old.send("lost");
    fresh.send("lost");
    CHECK(old.receive(a_while) == std::nullopt);
    CHECK(fresh.receive(a_while) == std::nullopt);
    CHECK(server.received() == before);
    CHECK(gate.connections() == 4);
    gate.pass();
    CHECK(old.closed());
    CHECK(fresh.closed());
    CHECK(echo(quiet, "3") == "3");
    CHECK(echo(silent, "4") == "4");
  }
  SUBCASE("answers only") {
    gate.swallow(Way::down);
    old.send("asked");
    CHECK(rig::eventually([&] { return server.received() == before + 5; }, "the request arrived"));
    CHECK(old.receive(a_while) == std::nullopt);
    gate.pass();
    CHECK(old.closed());
  }
  SUBCASE("requests only") {
    gate.swallow(Way::up);
    old.send("lost");
    CHECK(old.receive(a_while) == std::nullopt);
    CHECK(server.received() == before);
  }
  SUBCASE("a client's end is not told") {
    gate.swallow();
    { const rig::Socket gone = std::move(old); }
    CHECK(rig::eventually([&] { return gate.connections() == 1; }, "the gate sees the client go"));
    std::this_thread::sleep_for(a_while);
    CHECK(server.open() == 2);
    gate.pass();
    CHECK(rig::eventually([&] { return server.open() == 1; }, "the server learns of it"));
  }
}

TEST_CASE("gate: hold keeps bytes for later") {
  Echo server;
  rig::Gate gate(server.endpoint());
  rig::Socket old(gate.endpoint());
  REQUIRE(echo(old, "1") == "1");
  const auto before = server.received();
  SUBCASE("both ways") {
    gate.hold();
    rig::Socket fresh(gate.endpoint());
    old.send("later");
    fresh.send("too");
    CHECK(old.receive(a_while) == std::nullopt);
    CHECK(server.received() == before);
    gate.pass();
    CHECK(old.receive_exactly(5) == "later");
    CHECK(fresh.receive_exactly(3) == "too");
  }
  SUBCASE("answers only") {
    gate.hold(Way::down);
    old.send("later");
    CHECK(rig::eventually([&] { return server.received() == before + 5; }, "the request arrived"));
    CHECK(old.receive(a_while) == std::nullopt);
    gate.pass();
    CHECK(old.receive_exactly(5) == "later");
  }
}

TEST_CASE("gate: delay shifts every byte, in order") {
  Echo server;
  rig::Gate gate(server.endpoint());
  rig::Socket a(gate.endpoint());
  gate.delay(100ms);
  const auto start = std::chrono::steady_clock::now();
  CHECK(echo(a, "there and back") == "there and back");
  CHECK(std::chrono::steady_clock::now() - start >= 200ms);
  a.send("slow ");
  gate.delay(0ms);
  a.send("fast");
  CHECK(a.receive_exactly(9) == "slow fast");
}

TEST_CASE("gate: cut after so many bytes, exactly") {
  Echo server;
  rig::Gate gate(server.endpoint());
  rig::Socket a(gate.endpoint());
  REQUIRE(echo(a, "1") == "1");
  const auto before = server.received();
  SUBCASE("of the answers, once") {
    gate.cut_after(3);
    a.send("abcdef");
    CHECK(a.receive_exactly(100) == "abc");
    CHECK(server.received() == before + 6);
    rig::Socket b(gate.endpoint());
    CHECK(echo(b, "abcdef") == "abcdef");
  }
  SUBCASE("of the requests, again and again") {
    gate.cut_after(2, Way::up, false);
    a.send("abcdef");
    CHECK(a.closed());
    CHECK(rig::eventually([&] { return server.received() == before + 2; }, "two bytes arrived"));
    for (int i = 0; i < 3; ++i) {
      rig::Socket b(gate.endpoint());
      b.send("xyz");
      CHECK(b.closed());
    }
    CHECK(rig::eventually([&] { return server.received() == before + 8; }, "two bytes of each arrived"));
    gate.pass();
    rig::Socket c(gate.endpoint());
    CHECK(echo(c, "abc") == "abc");
  }
  SUBCASE("of nothing: the answer is lost whole") {
    gate.cut_after(0);
    CHECK(gate.connections() == 1);
    a.send("abc");
    CHECK(a.receive() == "");
    CHECK(server.received() == before + 3);
  }
}

TEST_CASE("gate: a server that is away, comes back, or moves") {
  rig::Gate gate;
  CHECK(rig::Socket(gate.endpoint()).closed());
  auto server = std::make_unique<Echo>();
  gate.aim(server->endpoint());
  rig::Socket a(gate.endpoint());
  CHECK(echo(a, "1") == "1");
  server.reset();
  CHECK(a.closed());
  CHECK(rig::Socket(gate.endpoint()).closed());
  Echo next;
  gate.aim(next.endpoint());
  rig::Socket b(gate.endpoint());
  CHECK(echo(b, "2") == "2");
}

TEST_CASE("gate: calls from several threads while bytes flow") {
  Echo server;
  rig::Gate gate(server.endpoint());
  std::atomic<bool> stop = false;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i)
    threads.emplace_back([&] {
      while (!stop) {
        rig::Socket socket(gate.endpoint());
        while (!stop && socket.send("ping") && socket.receive(50ms).value_or("late") != "") {
        }
      }
    });
  for (int i = 0; i < 100; ++i) {
    gate.cut();
    gate.swallow(i % 2 ? Way::up : Way::down);
    gate.pass();
    gate.cut_after(7, Way::both);
    gate.connections();
  }
  stop = true;
  gate.cut();
  for (auto& t : threads) t.join();
  gate.pass();
  rig::Socket last(gate.endpoint());
  CHECK(echo(last, "fine") == "fine");
}

TEST_CASE("gate: between etcdctl and etcd") {
  if (rig::skip_without_etcd()) return;
  rig::Gate gate;
  rig::Etcd etcd({.advertise = gate.endpoint()});
  gate.aim(etcd.endpoint());
  const auto get = [&] {
    const auto endpoints = "--endpoints=" + gate.endpoint();
    const rig::RunOptions api{.env = {"ETCDCTL_API=3"}};
    return rig::run({"etcdctl", endpoints, "--command-timeout=1s", "get", "a"}, api).ok();
  };
  CHECK(get());
  gate.swallow();
  CHECK(!get());
  gate.pass();
  CHECK(get());
  CHECK(etcd.ctl({"member", "list"}).out.find(gate.endpoint()) != std::string::npos);
}

TEST_CASE("eventually is patient, not endless, and forgives a server that is still away") {
  int asked = 0;
  CHECK(rig::eventually([&] {
    if (++asked < 3) throw std::runtime_error("not yet");
    return true;
  }));
  CHECK(!rig::eventually([] { return false; }, "the impossible", 20ms));
}

TEST_SUITE_END();
