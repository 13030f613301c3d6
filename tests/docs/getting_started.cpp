// The code of docs/getting-started.md, run on a MemoryStore.
#include <doctest/doctest.h>

#include <asio/io_context.hpp>
#include <chrono>
#include <iostream>
#include <set>
#include <sstream>
#include <string>
#include <system_error>

#include "registry/registry.hpp"
#include "rig/world.hpp"

using namespace std::chrono_literals;

namespace {

// begin: client
asio::awaitable<void> ask(registry::Registry& reg) {
  auto view = co_await reg.subscribe("user-service");  // a live list
  co_await view.wait_ready();                          // until somebody is there
  registry::RoundRobinBalancer balancer;
  for (int call = 0; call < 10; ++call) {
    if (auto instance = balancer.pick(view)) {  // reads the local list: no call to etcd
      std::cout << instance->id << " at " << instance->endpoints.front() << '\n';
    }
  }
  co_await reg.close();
}
// end: client

// begin: errors
asio::awaitable<bool> registered(registry::Registry& reg, registry::ServiceInstance self) {
  try {
    co_await reg.register_instance(self);
    co_return true;
  } catch (const std::system_error& error) {
    std::cerr << error.what() << '\n';  // says which field, endpoint or call
    if (!registry::is_retryable(error.code())) throw;
    co_return false;  // etcd is away: trying again later may do
  }
}
// end: errors

}  // namespace

TEST_CASE("getting started: the client calls all instances in turn, on a store in memory") {
  // begin: memory
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());  // instead of the Connector
  registry::Registry reg(store);
  // end: memory
  for (const char* id : {"user-1", "user-2"}) {
    const auto instance = rig::instance("user-service", id);
    rig::run(io, reg.register_instance(instance));
  }
  std::ostringstream text;
  std::streambuf* const before = std::cout.rdbuf(text.rdbuf());
  rig::run(io, ask(reg));
  std::cout.rdbuf(before);
  std::istringstream lines(text.str());
  std::multiset<std::string> called;
  for (std::string line; std::getline(lines, line);) called.insert(line);
  CHECK(called.size() == 10);
  CHECK(called.count("user-1 at grpc://127.0.0.1:9001") == 5);
  CHECK(called.count("user-2 at grpc://127.0.0.1:9001") == 5);
}

TEST_CASE("getting started: an error says what it is about") {
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store);
  std::ostringstream text;
  std::streambuf* const before = std::cerr.rdbuf(text.rdbuf());
  auto bad = rig::instance("user-service", "user-1");
  bad.endpoints = {"10.0.0.5"};
  const auto code = rig::run(io, rig::code_of(registered(reg, bad)));
  const bool good = rig::run(io, registered(reg, rig::instance("user-service", "user-1")));
  std::cerr.rdbuf(before);
  CHECK(code == registry::errc::invalid_argument);
  CHECK(text.str().find("endpoint = \"10.0.0.5\": use grpc://host:port, ") != std::string::npos);
  CHECK(good);
}
