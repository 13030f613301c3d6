// Following a range of keys in a store: list, publish, watch, publish each batch; list again when history was
// lost; resume behind the last delivered revision when the connection was.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/this_coro.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/async/sleep.hpp"
#include "registry/model/text.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/watch_resume.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

/// Who learns what is in a range. Called on the follower's executor, one call at a time; throws nothing.
class RangeSink {
 public:
  virtual ~RangeSink() = default;
  /// A list begins; begin again: the list was restarted, forget its pages. What is not in it is gone.
  virtual void begin_list() = 0;
  virtual void list_page(Page page) = 0;
  /// The pages since begin_list are everything, at `revision`.
  virtual void end_list(std::int64_t revision) = 0;
  /// Changes in order, each once. An empty batch: the store confirms that nothing else changed up to
  /// `through`.
  virtual void apply(Batch batch) = 0;
  /// A watch is running (again).
  virtual void fresh() = 0;
  /// Nothing is heard of the store until fresh(). Also called for every failed try in between.
  /// `store_changed`: the list that follows shares no history with what was known (equal revisions prove
  /// nothing). `closed`: this was the last call.
  virtual void stale(const Problem& why) = 0;
  /// Every key of the range with its mod_revision, sorted by key; for reconciling.
  virtual std::vector<std::pair<std::string, std::int64_t>> known() = 0;
};

/// How to follow.
struct FollowConfig {
  std::chrono::milliseconds backoff_first{1000}, backoff_max{30000};
  std::size_t page_size = 1000;
  /// Between two comparisons of what is known with the store. Zero: never.
  std::chrono::milliseconds reconcile_interval{std::chrono::minutes(10)};
  /// Names the range in counters and log lines; the service, if there is one.
  std::string label;

  FollowConfig() {}
};

/// The state of one follow; lives in its coroutine frame.
struct Following {
  std::shared_ptr<StoreBackend> backend;
  KeyRange range;
  FollowConfig config;
  Observer observer;
  std::shared_ptr<RangeSink> sink;
  WatchResume resume;
  Random random;

  Following(std::shared_ptr<StoreBackend> store, KeyRange keys, FollowConfig settings, Observer told,
            std::shared_ptr<RangeSink> to)
      : backend(std::move(store)),
        range(std::move(keys)),
        config(std::move(settings)),
        observer(std::move(told)),
        sink(std::move(to)),
        resume(config.backoff_first, config.backoff_max, config.reconcile_interval) {}

  void log(LogLevel level, const std::string& text) const {
    if (observer.logs()) observer.log(level, "follow " + quote(config.label) + ": " + text);
  }

  ListQuery query() const {
    ListQuery all(range);
    all.limit = config.page_size;
    return all;
  }

  /// The query of the page behind this one, pinned to the same revision; empty behind the last page.
  static std::optional<ListQuery> behind(ListQuery query, const Page& page, const std::string& store_id) {
    if (page.store_id != store_id) fail(errc::store_changed);
    if (!page.more) return std::nullopt;
    if (page.items.empty() || page.items.back().key <= query.after)
      fail(errc::protocol_error, "a page that is not the last and does not go on");
    query.revision = page.revision;
    query.after = page.items.back().key;
    return query;
  }
};

inline Problem problem_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::system_error& failure) {
    return Problem(failure);
  } catch (...) {
    return errc::protocol_error;
  }
}

/// Lists the range into the sink.
inline asio::awaitable<void> list_range(Following& self) {
  self.sink->begin_list();
  std::optional<ListQuery> query = self.query();
  std::string store_id;
  std::int64_t revision = 0;
  while (query) {
    Page page = co_await self.backend->list(*query);
    if (query->after.empty()) store_id = page.store_id, revision = page.revision;
    query = Following::behind(*query, page, store_id);
    self.sink->list_page(std::move(page));
  }
  self.resume.listed(store_id, revision, std::chrono::steady_clock::now(), self.random.draw());
  self.sink->end_list(revision);
}

/// Whether the store still agrees, at the revision `at` that the sink has reached. Throws what the reads
/// throw.
inline asio::awaitable<bool> store_agrees(Following& self, std::string store_id, std::int64_t at) {
  const auto known = self.sink->known();
  auto expected = known.begin();
  std::optional<ListQuery> query = self.query();
  query->keys_only = query->local = true;
  query->revision = at;
  while (query) {
    const Page page = co_await self.backend->list(*query);
    for (const KeyValue& pair : page.items) {
      if (expected == known.end() || expected->first != pair.key) co_return false;
      if ((expected++)->second != pair.mod_revision) co_return false;
    }
    query = Following::behind(*query, page, store_id);
  }
  co_return expected == known.end();
}

/// Compares what is known with the store. Throws `compacted`, which lists again, if they differ: events were
/// lost.
inline asio::awaitable<void> reconcile(Following& self) {
  bool agrees = true;
  try {
    agrees = co_await store_agrees(self, self.resume.store_id(), self.resume.through());
  } catch (const std::system_error&) {
    // Compacted, or a replica that lags: this was a second look only, the next one comes.
  }
  self.resume.reconciled(std::chrono::steady_clock::now(), self.random.draw());
  if (agrees) co_return;
  self.log(LogLevel::Warning, "events were lost by the store, listing again");
  fail(errc::compacted);
}

/// Watches from where the list or the last watch ended. Ends by exception.
inline asio::awaitable<void> watch_range(Following& self) {
  self.resume.started();
  bool running = false;
  Generator<Batch> batches = self.backend->watch(self.range, self.resume.watch_from());
  for (;;) {
    co_await batches.wait(self.resume.reconcile_due());
    if (std::optional<Batch> batch = batches.try_next()) {
      const WatchAction action = self.resume.batch(*batch, std::chrono::steady_clock::now());
      if (action.kind == WatchAction::Relist) fail(action.reason);
      if (!std::exchange(running, true)) self.sink->fresh();
      if (action.kind == WatchAction::DeliverFrom) {
        std::erase_if(batch->changes,
                      [&](const Change& change) { return change.kv.mod_revision < action.from; });
      }
      batch->through =
          self.resume.through();  // which never falls; a watch begins with what was delivered before
      if (action.kind != WatchAction::Ignore) self.sink->apply(std::move(*batch));
    } else if (batches.ended()) {
      fail(errc::unavailable);  // a watch without end is what the store promised
    }
    if (std::chrono::steady_clock::now() >= self.resume.reconcile_due()) co_await reconcile(self);
  }
}

/// Keeps `sink` told about a range, until cancelled or until the store says `closed`. Everything else is
/// tried again for ever. The sink is released with the coroutine.
inline asio::awaitable<void> follow(std::shared_ptr<StoreBackend> backend, KeyRange range,
                                    FollowConfig config, Observer observer, std::shared_ptr<RangeSink> sink) {
  Following self(std::move(backend), std::move(range), std::move(config), std::move(observer),
                 std::move(sink));
  bool resync = false;
  for (;;) {
    std::exception_ptr error;
    try {
      if (self.resume.must_list()) {
        co_await list_range(self);
        if (std::exchange(resync, true)) self.observer.count(metric::resyncs, self.config.label);
      }
      co_await watch_range(self);
    } catch (...) {
      error = std::current_exception();
    }
    const auto cancelled = (co_await asio::this_coro::cancellation_state).cancelled();
    if (cancelled != asio::cancellation_type::none) co_return;

    const Problem why = problem_of(error);
    const auto pause = self.resume.failed(why, std::chrono::steady_clock::now(), self.random.draw());
    self.sink->stale(why);
    if (why == errc::closed) co_return;
    self.observer.count(metric::reconnects, self.config.label);
    self.log(LogLevel::Warning, (why.words.empty() ? "" : why.words + ": ") + why.message() +
                                    (self.resume.must_list() ? ", listing" : ", resuming") + " again in " +
                                    std::to_string(pause.count()) + " ms");
    if (pause.count() > 0) co_await sleep_for(pause);
  }
}

}  // namespace registry::detail
