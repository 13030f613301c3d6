// A process that exits while threads of it run on: what is cancelled then ends as at any other time, though the statics
// of Asio are gone.
#include <doctest/doctest.h>
#include <unistd.h>

#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "registry/async/on.hpp"
#include "registry/async/sleep.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/facade/registry.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/eventually.hpp"
#include "rig/process.hpp"

namespace {

using namespace registry;
using namespace std::chrono_literals;

/// Never freed, so that its threads outlive every static.
struct Lasting {
  asio::thread_pool pool{2};
  MemoryStore store{pool.get_executor()};
  std::unique_ptr<Registry> reg = std::make_unique<Registry>(store);
  detail::Home home = detail::Home::strand(pool.get_executor());
  detail::TaskScope scope{home};
  std::atomic<int> started{0}, ended{0}, aborted{0};
};
Lasting* lasting = nullptr;

/// Runs after the destructors of all statics.
__attribute__((destructor)) void last_of_all() {
  if (lasting == nullptr) return;
  lasting->reg.reset();
  lasting->home.post([] { lasting->scope.cancel(); });
  const bool all_ended = rig::eventually([] { return lasting->ended == lasting->started; }, "all have ended");
  if (!all_ended || lasting->aborted < 3) ::_exit(3);
}

asio::awaitable<void> counted(asio::awaitable<void> work) {
  ++lasting->started;
  try {
    co_await std::move(work);
  } catch (const std::system_error& error) {
    if (error.code().value() == ECANCELED) ++lasting->aborted;  // its category is not to be asked
  }
  ++lasting->ended;
}

asio::awaitable<void> wait_for_ever() {
  const detail::Signal never;
  co_await never.wait();
}
asio::awaitable<void> follow() {
  auto events = lasting->reg->watch("user-service");
  while (auto event = co_await events.next()) {
  }
}
asio::awaitable<void> keep_registered() {
  ServiceInstance self("user-service", "user-1");
  self.endpoints = {"grpc://127.0.0.1:1"};
  co_await lasting->reg->register_instance(self, 1s);
}

}  // namespace

TEST_CASE("exit: a process of its own") {
  if (std::getenv("REGISTRY_TEST_EXIT") == nullptr) return;
  lasting = new Lasting;
  lasting->scope.spawn(counted(wait_for_ever()));
  lasting->scope.spawn(counted(detail::sleep_for(1h)));
  const auto elsewhere = detail::Home::strand(lasting->pool.get_executor());
  lasting->scope.spawn(counted(detail::on(elsewhere, wait_for_ever())));
  lasting->scope.spawn(counted(follow()));
  lasting->scope.spawn(counted(keep_registered()));
  CHECK(rig::eventually([] { return lasting->started == 5 && lasting->ended == 1; }, "all but one wait"));
}

TEST_CASE("exit: what waits when the process exits is cancelled after Asio's statics are gone") {
  rig::RunOptions options;
  options.env = {"REGISTRY_TEST_EXIT=1"};
  const rig::Output output = rig::run({"/proc/self/exe", "-ns", "-tc=exit: a process of its own"}, options);
  INFO(output.out);
  INFO(output.err);
  CHECK(output.code == 0);
}
