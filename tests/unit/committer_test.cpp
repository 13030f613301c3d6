// Group commit against a store that counts commits.
#include <doctest/doctest.h>

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <memory>
#include <string>
#include <vector>

#include "registry/store/committer.hpp"

using namespace registry;
using detail::Committer;
using detail::Home;
using detail::Outcome;

namespace {

/// Applies everything, but a write with the value "bad" spoils its commit. Answers only when let.
class Commits final : public StoreBackend {
 public:
  explicit Commits(asio::any_io_executor executor) : executor_(std::move(executor)) {}
  std::vector<std::size_t> sizes;
  bool hold = false;
  std::vector<detail::Signal> held;
  errc error = errc::permission_denied;

  asio::any_io_executor get_executor() const noexcept override { return executor_; }
  Limits limits() const noexcept override { return Limits(100, 1 << 20); }
  asio::awaitable<Committed> commit(std::vector<Write> writes) override {
    sizes.push_back(writes.size());
    if (hold) {
      const detail::Signal go;
      held.push_back(go);
      co_await go.wait();
    }
    Committed committed;
    committed.revision = static_cast<std::int64_t>(sizes.size());
    for (const Write& write : writes) {
      if (write.value == "bad") detail::fail(error);
      committed.results.emplace_back().applied = true;
    }
    co_return committed;
  }
  asio::awaitable<Page> list(ListQuery) override { co_return Page(); }
  asio::awaitable<Lease> grant(std::int64_t, std::chrono::seconds) override { co_return Lease(); }
  asio::awaitable<std::chrono::seconds> renew(std::int64_t, std::chrono::milliseconds) override {
    co_return std::chrono::seconds(0);
  }
  asio::awaitable<void> revoke(std::int64_t) override { co_return; }
  Generator<Batch> watch(KeyRange, std::int64_t) override { return Generator<Batch>(); }
  void cancel() noexcept override {}

 private:
  asio::any_io_executor executor_;
};

struct Fixture {
  asio::io_context io;
  std::shared_ptr<Commits> store = std::make_shared<Commits>(io.get_executor());
  Home home{io.get_executor()};
  std::shared_ptr<Committer> committer = std::make_shared<Committer>(store, home);
  std::vector<std::string> ends;

  void write(std::string key, std::string value, asio::cancellation_slot slot = {}) {
    auto end = [this, key](std::exception_ptr error, const Outcome& outcome) {
      std::string text = key + " ";
      try {
        if (error) std::rethrow_exception(error);
        text += outcome.written.applied ? "applied at " + std::to_string(outcome.revision) : "refused";
      } catch (const std::system_error& failure) {
        text += failure.code().message();
      }
      ends.push_back(text);
    };
    const Write one(key, value, 1, 0);
    asio::co_spawn(io, Committer::write(committer, one), asio::bind_cancellation_slot(slot, end));
  }
  void run() {
    io.restart();
    io.poll();
  }
};

using Lines = std::vector<std::string>;

}  // namespace

TEST_CASE("committer: writes that come together are one commit") {
  Fixture f;
  for (int i = 0; i < 50; ++i) f.write("k" + std::to_string(i), "v");
  f.run();
  CHECK(f.store->sizes == std::vector<std::size_t>{50});
  CHECK(f.ends.size() == 50);
  CHECK(f.ends[49] == "k49 applied at 1");
}

TEST_CASE("committer: at most two commits are under way; what queues meanwhile goes together") {
  Fixture f;
  f.store->hold = true;
  for (int i = 0; i < 10; ++i) {
    f.write("k" + std::to_string(i), "v");
    f.run();
  }
  CHECK(f.store->sizes == std::vector<std::size_t>{1, 1});
  f.store->hold = false;
  f.store->held[0].raise();
  f.run();
  CHECK(f.store->sizes == std::vector<std::size_t>{1, 1, 8});
  f.store->held[1].raise();
  f.run();
  CHECK(f.ends.size() == 10);
}

TEST_CASE("committer: what came together and is more than one commit takes goes in two side by side") {
  Fixture f;
  f.store->hold = true;
  for (int i = 0; i < 350; ++i) f.write("k" + std::to_string(i), "v");
  f.run();
  REQUIRE(f.store->sizes == std::vector<std::size_t>{100, 100});
  f.store->held[0].raise();
  f.run();
  REQUIRE(f.store->sizes == std::vector<std::size_t>{100, 100, 100});
  f.store->held[1].raise();
  f.run();
  REQUIRE(f.store->sizes == std::vector<std::size_t>{100, 100, 100, 50});
  f.store->held[2].raise();
  f.store->held[3].raise();
  f.run();
  CHECK(f.ends.size() == 350);
}

TEST_CASE("committer: a full commit does not wait for the writes behind it") {
  Fixture f;
  std::vector<std::size_t> sent;  // before each write
  for (int i = 0; i < 150; ++i) {
    asio::post(f.io, [&f, &sent] { sent.push_back(f.store->sizes.size()); });
    f.write("k" + std::to_string(i), "v");
  }
  f.run();
  CHECK(sent[99] == 0);
  CHECK(sent[100] == 1);
  CHECK(f.store->sizes == std::vector<std::size_t>{100, 50});
}

TEST_CASE("committer: only the guilty write fails") {
  Fixture f;
  for (int i = 0; i < 8; ++i) f.write("k" + std::to_string(i), i == 5 ? "bad" : "v");
  f.run();
  REQUIRE(f.ends.size() == 8);
  int failed = 0;
  for (const auto& end : f.ends) {
    const bool denied = end.find("denied") != std::string::npos;
    failed += denied;
    CHECK(denied == end.starts_with("k5"));
  }
  CHECK(failed == 1);
}

TEST_CASE("committer: an indeterminate failure reaches every writer") {
  Fixture f;
  f.store->error = errc::outcome_unknown;
  f.write("a", "v");
  f.write("b", "bad");
  f.run();
  CHECK(f.store->sizes.size() == 1);
  CHECK(f.ends == Lines{"a the write may or may not have been applied",
                        "b the write may or may not have been applied"});
}

TEST_CASE("committer: a cancelled writer is taken out of the queue; one under way is only forgotten") {
  Fixture f;
  f.store->hold = true;
  asio::cancellation_signal queued, flying;
  f.write("a", "v", flying.slot());
  f.run();
  f.write("a", "w", queued.slot());  // waits for the first
  f.run();
  queued.emit(asio::cancellation_type::terminal);
  flying.emit(asio::cancellation_type::terminal);
  f.run();
  CHECK(f.ends.size() == 2);
  f.store->hold = false;
  for (const auto& signal : f.store->held) signal.raise();
  f.run();
  CHECK(f.store->sizes == std::vector<std::size_t>{1});
  f.write("a", "x");
  f.run();
  CHECK(f.ends.back() == "a applied at 2");
}

TEST_CASE("committer: cancel ends every writer, and later ones get closed") {
  Fixture f;
  f.store->hold = true;
  f.write("a", "v");
  f.run();
  f.write("b", "v");
  f.write("a", "v");
  f.run();
  f.committer->cancel();
  f.run();
  CHECK(f.ends.size() == 3);
  f.write("c", "v");
  f.run();
  CHECK(f.ends.back() == "c closed");
}
