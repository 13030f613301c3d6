// Following a range against a store that plays a script: what is asked of it, and what the sink is told.
#include <doctest/doctest.h>

#include <asio/io_context.hpp>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "registry/async/home.hpp"
#include "registry/async/mailbox.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/store/follow.hpp"
#include "rig/run.hpp"

using namespace registry;
using namespace registry::detail;
using namespace std::chrono_literals;

namespace {

/// Notes what is asked. Lists answer from the script in order; what a watch delivers is pushed by the test.
class ScriptedBackend final : public StoreBackend {
 public:
  explicit ScriptedBackend(asio::any_io_executor executor) : executor_(std::move(executor)) {}

  std::string log;
  std::deque<std::variant<Page, errc>> pages;
  std::vector<std::shared_ptr<Mailbox<Batch>>> watches;

  asio::any_io_executor get_executor() const noexcept override { return executor_; }
  Limits limits() const noexcept override { return Limits(); }
  asio::awaitable<Page> list(ListQuery query) override {
    log += "list@" + std::to_string(query.revision) + (query.after.empty() ? "" : ">" + query.after) +
           (query.keys_only ? " keys" : "") + (query.local ? " local" : "") + "; ";
    if (pages.empty()) fail(errc::unavailable);
    const auto answer = pages.front();
    pages.pop_front();
    if (const auto* code = std::get_if<errc>(&answer)) fail(*code);
    co_return std::get<Page>(answer);
  }
  Generator<Batch> watch(KeyRange, std::int64_t from) override {
    log += "watch@" + std::to_string(from) + "; ";
    watches.push_back(std::make_shared<Mailbox<Batch>>());
    return Generator<Batch>(watches.back());
  }
  asio::awaitable<Committed> commit(std::vector<Write>) override { fail(errc::protocol_error); }
  asio::awaitable<Lease> grant(std::int64_t, std::chrono::seconds) override { fail(errc::protocol_error); }
  asio::awaitable<std::chrono::seconds> renew(std::int64_t, std::chrono::milliseconds) override {
    fail(errc::protocol_error);
  }
  asio::awaitable<void> revoke(std::int64_t) override { fail(errc::protocol_error); }
  void cancel() noexcept override {}

 private:
  asio::any_io_executor executor_;
};

class NotingSink final : public RangeSink {
 public:
  std::string log;
  std::vector<std::pair<std::string, std::int64_t>> keys;

  void begin_list() override { log += "begin "; }
  void list_page(Page page) override {
    for (const auto& item : page.items) log += item.key + "=" + std::to_string(item.mod_revision) + " ";
  }
  void end_list(std::int64_t revision) override { log += "end@" + std::to_string(revision) + " "; }
  void apply(Batch batch) override {
    log += "[";
    for (const auto& change : batch.changes)
      log += change.kv.key + "=" + std::to_string(change.kv.mod_revision) + " ";
    log += "] ";
  }
  void fresh() override { log += "fresh "; }
  void stale(const detail::Problem& why) override {
    if (why == errc::unavailable)
      log += "stale ";
    else
      log += "stale(" + why.message() + ") ";
  }
  std::vector<std::pair<std::string, std::int64_t>> known() override { return keys; }
};

Page page(std::int64_t revision, std::vector<std::pair<std::string, std::int64_t>> items, bool more = false) {
  Page made;
  made.store_id = "s";
  made.revision = revision;
  made.more = more;
  for (auto& [key, mod] : items) {
    auto& item = made.items.emplace_back();
    item.key = key;
    item.mod_revision = mod;
  }
  return made;
}

Batch batch(std::int64_t head, std::int64_t through,
            std::vector<std::pair<std::string, std::int64_t>> changes = {}) {
  Batch made;
  made.store_id = "s";
  made.head = head;
  made.through = through;
  for (auto& [key, mod] : changes) {
    auto& change = made.changes.emplace_back();
    change.kv.key = key;
    change.kv.mod_revision = mod;
  }
  return made;
}

struct Stage {
  asio::io_context io;
  std::shared_ptr<ScriptedBackend> store = std::make_shared<ScriptedBackend>(io.get_executor());
  std::shared_ptr<NotingSink> sink = std::make_shared<NotingSink>();
  TaskScope tasks{Home::strand(io.get_executor())};
  FollowConfig config;

  Stage() {
    config.backoff_first = 1ms;
    config.backoff_max = 5ms;
  }
  void start() { tasks.spawn(follow(store, KeyRange("k/", "k0"), config, Observer(), sink)); }
  void until(std::function<bool()> condition) { rig::run(io, rig::until(std::move(condition))); }
  void watched(std::size_t times) {
    until([this, times] { return store->watches.size() >= times; });
  }
  void told(std::string end) {
    until([this, end] { return sink->log.ends_with(end); });
  }
  void stop() {
    tasks.cancel();
    until([this] { return tasks.size() == 0; });
  }
};

std::exception_ptr error(errc code) {
  return std::make_exception_ptr(std::system_error(make_error_code(code)));
}

}  // namespace

TEST_CASE("follow: lists in pages pinned to the first one's revision, then watches behind it") {
  Stage stage;
  stage.store->pages = {page(7, {{"k/a", 3}, {"k/b", 4}}, true), page(7, {{"k/c", 5}})};
  stage.start();
  stage.watched(1);
  CHECK(stage.store->log == "list@0; list@7>k/b; watch@7; ");
  CHECK(stage.sink->log == "begin k/a=3 k/b=4 k/c=5 end@7 ");
  stage.store->watches[0]->push(batch(7, 7));
  stage.store->watches[0]->push(batch(9, 9, {{"k/a", 8}, {"k/b", 9}}));
  stage.told("fresh [] [k/a=8 k/b=9 ] ");
  stage.stop();
  CHECK(stage.sink->log.find("stale") == std::string::npos);
  CHECK(stage.sink.use_count() == 1);
}

TEST_CASE("follow: a compaction between two pages restarts the list") {
  Stage stage;
  stage.store->pages = {page(7, {{"k/a", 3}}, true), errc::compacted, page(9, {{"k/b", 9}})};
  stage.start();
  stage.watched(1);
  CHECK(stage.store->log == "list@0; list@7>k/a; list@0; watch@9; ");
  CHECK(stage.sink->log.ends_with("begin k/b=9 end@9 "));
  stage.stop();
}

TEST_CASE("follow: a break resumes behind the last delivered revision, and drops what comes again") {
  Stage stage;
  stage.store->pages = {page(7, {})};
  stage.start();
  stage.watched(1);
  stage.store->watches[0]->push(batch(7, 7));
  stage.store->watches[0]->push(batch(9, 8, {{"k/a", 8}}));
  stage.store->watches[0]->close(error(errc::unavailable));
  stage.watched(2);
  CHECK(stage.store->log == "list@0; watch@7; watch@8; ");
  CHECK(stage.sink->log == "begin end@7 fresh [] [k/a=8 ] stale ");
  stage.store->watches[1]->push(batch(10, 10, {{"k/a", 8}, {"k/a", 9}, {"k/b", 10}}));
  stage.told("stale fresh [k/a=9 k/b=10 ] ");
  stage.store->watches[1]->close();  // without an error: as good as broken
  stage.watched(3);
  CHECK(stage.store->log.ends_with("watch@10; "));
  stage.stop();
}

TEST_CASE("follow: a compacted watch is listed again at once") {
  Stage stage;
  stage.store->pages = {page(7, {{"k/a", 3}}), page(90, {{"k/b", 80}})};
  stage.start();
  stage.watched(1);
  stage.store->watches[0]->push(batch(7, 7));
  stage.store->watches[0]->close(error(errc::compacted));
  stage.watched(2);
  CHECK(stage.store->log == "list@0; watch@7; list@0; watch@90; ");
  CHECK(stage.sink->log.ends_with("stale(" + make_error_code(errc::compacted).message() +
                                  ") begin k/b=80 end@90 "));
  stage.stop();
}

TEST_CASE("follow: a store restored to an older revision is told as changed and listed again") {
  Stage stage;
  stage.store->pages = {page(70, {{"k/a", 3}}), page(20, {})};
  stage.start();
  stage.watched(1);
  stage.store->watches[0]->push(batch(70, 70));
  stage.store->watches[0]->close(error(errc::unavailable));
  stage.watched(2);
  stage.store->watches[1]->push(batch(20, 20));
  stage.watched(3);
  CHECK(stage.store->log == "list@0; watch@70; watch@70; list@0; watch@20; ");
  CHECK(stage.sink->log.ends_with("stale(" + make_error_code(errc::store_changed).message() +
                                  ") begin end@20 "));
  stage.stop();
}

TEST_CASE("follow: reconciling finds what the store never told, and lists again") {
  Stage stage;
  stage.config.reconcile_interval = 1ms;
  stage.store->pages = {page(7, {{"k/a", 3}, {"k/b", 4}})};
  stage.sink->keys = {{"k/a", 3}, {"k/b", 4}};
  stage.start();
  stage.watched(1);

  SUBCASE("they agree") {
    stage.store->pages = {page(7, {{"k/a", 3}}, true), page(7, {{"k/b", 4}})};
    stage.until([&] {
      stage.store->watches[0]->push(batch(7, 7));
      return stage.store->pages.empty();
    });
    stage.store->watches[0]->push(batch(8, 8, {{"k/c", 8}}));
    stage.told("[k/c=8 ] ");
    CHECK(stage.store->log.starts_with("list@0; watch@7; list@7 keys local; list@7>k/a keys local; "));
    CHECK(stage.store->watches.size() == 1);
  }
  SUBCASE("a lost delete, a lost put, a lost change") {
    Page now;
    SUBCASE("delete") { now = page(7, {{"k/a", 3}}); }
    SUBCASE("put") { now = page(7, {{"k/a", 3}, {"k/b", 4}, {"k/c", 5}}); }
    SUBCASE("change") { now = page(7, {{"k/a", 3}, {"k/b", 6}}); }
    stage.store->pages = {now, page(9, {{"k/z", 9}})};
    stage.until([&] {
      stage.store->watches[0]->push(batch(7, 7));
      return stage.store->watches.size() == 2;
    });
    CHECK(stage.store->log.ends_with("list@7 keys local; list@0; watch@9; "));
    CHECK(stage.sink->log.ends_with("begin k/z=9 end@9 "));
  }
  SUBCASE("a failed look is no reason to do anything") {
    stage.store->pages = {errc::compacted};
    stage.until([&] {
      stage.store->watches[0]->push(batch(7, 7));
      return stage.store->pages.empty();
    });
    stage.store->watches[0]->push(batch(8, 8, {{"k/c", 8}}));
    stage.until([&] { return stage.sink->log.find("[k/c=8 ]") != std::string::npos; });
    CHECK(stage.store->watches.size() == 1);
    CHECK(stage.sink->log.find("stale") == std::string::npos);
  }
  stage.stop();
}

TEST_CASE("follow: an unreachable store is tried for ever, a closed one is not") {
  Stage stage;
  stage.store->pages = {errc::unavailable, errc::authentication_failed, errc::unavailable, page(7, {})};
  stage.start();
  stage.watched(1);
  CHECK(stage.store->log == "list@0; list@0; list@0; list@0; watch@7; ");
  stage.store->watches[0]->close(error(errc::closed));
  stage.until([&] { return stage.tasks.size() == 0; });
  CHECK(stage.sink->log.ends_with("stale(" + make_error_code(errc::closed).message() + ") "));
  CHECK(stage.sink.use_count() == 1);
}

TEST_CASE("follow: destroyed with its context while it waits") {
  auto sink = std::make_shared<NotingSink>();
  {
    Stage stage;
    stage.sink = sink;
    stage.store->pages = {page(7, {})};
    stage.start();
    stage.watched(1);
  }
  CHECK(sink.use_count() == 1);
}
