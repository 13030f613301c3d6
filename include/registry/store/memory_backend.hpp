// A MemoryTable made into a StoreBackend: one mutex around it, watches that read its history by position, and
// a background coroutine that ends leases on time and writes the snapshot file.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <algorithm>
#include <chrono>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "registry/async/aborted.hpp"
#include "registry/async/clock.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/store/memory_config.hpp"
#include "registry/store/snapshot_file.hpp"
#include "registry/store/memory_table.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

class MemoryWatch;

class MemoryBackend final : public StoreBackend, public std::enable_shared_from_this<MemoryBackend> {
 public:
  using TimePoint = MemoryTable::TimePoint;

  /// `config` is valid. Throws `bad_snapshot`.
  MemoryBackend(const asio::any_io_executor& executor, MemoryStoreConfig config)
      : config_(std::move(config)),
        home_(executor),
        table_(config_.min_ttl, config_.max_history, config_.limits),
        store_id_(std::to_string(random_.id())) {
    if (!config_.snapshot_file.empty()) load();
  }

  /// Leases of a loaded snapshot run from now on. Called once, when the backend is owned.
  void start() {
    change([](MemoryTable&, TimePoint) { return 0; });
  }

  asio::any_io_executor get_executor() const noexcept override { return home_.executor(); }
  Limits limits() const noexcept override { return config_.limits; }

  asio::awaitable<Page> list(ListQuery query) override {
    return call<Page>(shared_from_this(), [this, query = std::move(query)](MemoryTable& table, TimePoint) {
      Page page = table.list(query);
      page.store_id = store_id_;
      return page;
    });
  }

  asio::awaitable<Committed> commit(std::vector<Write> writes) override {
    return call<Committed>(shared_from_this(), [writes = std::move(writes)](MemoryTable& table, TimePoint) {
      return table.commit(writes);
    });
  }

  asio::awaitable<Lease> grant(std::int64_t id, std::chrono::seconds ttl) override {
    return call<Lease>(shared_from_this(), [this, id, ttl](MemoryTable& table, TimePoint now) {
      std::int64_t chosen = id;
      while (chosen == 0 || (id == 0 && table.leases().count(chosen) != 0)) chosen = random_.id();
      const Lease lease(chosen, table.grant(chosen, ttl, now));
      unsaved(now);
      return lease;
    });
  }

  asio::awaitable<std::chrono::seconds> renew(std::int64_t id, std::chrono::milliseconds) override {
    return call<std::chrono::seconds>(
        shared_from_this(), [id](MemoryTable& table, TimePoint now) { return table.renew(id, now); });
  }

  asio::awaitable<void> revoke(std::int64_t id) override {
    return call<void>(shared_from_this(), [this, id](MemoryTable& table, TimePoint now) {
      if (!table.end_lease(id)) fail(errc::lease_lost, "lease " + std::to_string(id));
      unsaved(now);
      return true;
    });
  }

  Generator<Batch> watch(KeyRange range, std::int64_t from) override;

  void cancel() noexcept override {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    end_watches(errc::closed);
    wake_.raise();
  }

  // The hooks of MemoryStore: they work on the data, whether or not the store can be reached.

  void compact(std::int64_t revision) {
    change([revision](MemoryTable& table, TimePoint) {
      table.compact(revision);
      return 0;
    });
  }
  bool end_lease(std::int64_t id) {
    return change([this, id](MemoryTable& table, TimePoint now) {
      if (!table.end_lease(id)) return false;
      unsaved(now);
      return true;
    });
  }
  std::int64_t put(const std::string& key, const std::string& value, std::int64_t lease) {
    return change([&](MemoryTable& table, TimePoint) { return table.put_unguarded(key, value, lease); });
  }
  bool erase(const std::string& key) {
    return change([&](MemoryTable& table, TimePoint) { return table.erase_unguarded(key); });
  }
  void disconnect() {
    const std::lock_guard lock(mutex_);
    end_watches(errc::unavailable);
  }
  void set_unavailable(bool unavailable) {
    const std::lock_guard lock(mutex_);
    unavailable_ = unavailable;
    if (unavailable) end_watches(errc::unavailable);
  }
  std::error_code save_error() const {
    const std::lock_guard lock(mutex_);
    return save_error_;
  }

  /// Writes the file now, on this thread.
  void save() {
    if (config_.snapshot_file.empty()) return;
    const std::lock_guard one_at_a_time(save_mutex_);
    StoreSnapshot snapshot;
    {
      const std::lock_guard lock(mutex_);
      snapshot.store_id = store_id_;
      snapshot.revision = table_.revision();
      for (const auto& [id, lease] : table_.leases()) snapshot.leases.emplace_back(id, lease.ttl);
      for (const auto& [key, pair] : table_.pairs()) snapshot.pairs.push_back(pair);
      unsaved_since_.reset();
    }
    std::error_code error;
    try {
      write_snapshot(config_.snapshot_file, snapshot);
    } catch (const std::system_error& failure) {
      error = failure.code();
    }
    const std::lock_guard lock(mutex_);
    save_error_ = error;
    if (!error) return;
    unsaved(boot_now());
    throw std::system_error(error, "writing " + detail::quote(config_.snapshot_file));
  }

 private:
  friend class MemoryWatch;

  // A call is on its way until the caller's executor has taken a turn, as with a store across a network: it
  // can be cancelled, and calls that are started together are in flight together.
  template <class T, class Work>
  static asio::awaitable<T> call(std::shared_ptr<MemoryBackend> self, Work work) {
    const auto executor = co_await asio::this_coro::executor;
    co_await asio::post(executor, asio::use_awaitable);
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) {
      throw_aborted();
    }
    if constexpr (std::is_void_v<T>) {
      self->change(work, true);
    } else {
      co_return self->change(work, true);
    }
  }

  /// Runs `work` on the table as it is now; watches hear of what it did.
  template <class Work>
  std::invoke_result_t<Work&, MemoryTable&, TimePoint> change(Work&& work, bool as_client = false) {
    std::unique_lock lock(mutex_);
    if (as_client && closed_) fail(errc::closed);
    if (as_client && unavailable_) fail(errc::unavailable);
    const TimePoint now = boot_now();
    expire(now);
    auto result = work(table_, now);
    publish(now);
    const bool keeper_needed = arrange_keeper();
    lock.unlock();
    if (keeper_needed) home_.spawn(keep(shared_from_this()), [](std::exception_ptr) {});
    return result;
  }

  // The rest of the functions here is called with the mutex held, except where it says otherwise.

  /// Leases end on time whether or not the background coroutine gets to run.
  void expire(TimePoint now) {
    while (const auto id = table_.due(now)) {
      table_.end_lease(*id);
      unsaved(now);
      publish(now);
    }
  }

  void publish(TimePoint now);
  void end_watches(errc why) noexcept;

  void unsaved(TimePoint now) {
    if (!unsaved_since_ && !config_.snapshot_file.empty()) unsaved_since_ = now;
  }

  std::optional<TimePoint> next_duty() const {
    std::optional<TimePoint> next = table_.next_deadline();
    if (unsaved_since_) {
      const TimePoint save_at = *unsaved_since_ + config_.snapshot_interval;
      next = next ? std::min(*next, save_at) : save_at;
    }
    return closed_ ? std::nullopt : next;
  }

  /// True: the caller starts the keeper, after unlocking.
  bool arrange_keeper() {
    const auto next = next_duty();
    if (keeper_runs_) {
      if (!next || *next < keeper_sleeps_until_) wake_.raise();
      return false;
    }
    keeper_runs_ = next.has_value();
    return keeper_runs_;
  }

  static asio::awaitable<void> keep(std::shared_ptr<MemoryBackend> self) {
    while (const auto pause = self->keep_once()) {
      co_await self->wake_.wait_until(std::chrono::steady_clock::now() + *pause);
    }
  }

  /// Without the mutex. How long to sleep; empty: nothing is left to do.
  std::optional<TimePoint::duration> keep_once() {
    bool save_due = false;
    {
      const std::lock_guard lock(mutex_);
      if (!closed_) expire(boot_now());
      save_due = !closed_ && unsaved_since_ && *unsaved_since_ + config_.snapshot_interval <= boot_now();
    }
    if (save_due) {
      try {
        save();
      } catch (const std::system_error&) {
        // Kept in save_error_; tried again after the next interval, which is never zero for that.
      }
    }
    const std::lock_guard lock(mutex_);
    const auto next = next_duty();
    keeper_runs_ = next.has_value();
    if (!next) return std::nullopt;
    // A timer stands still while the machine sleeps, leases do not: look again every few seconds.
    const TimePoint now = boot_now();
    const TimePoint earliest = save_error_ ? now + std::chrono::milliseconds(100) : now;
    keeper_sleeps_until_ = std::clamp(*next, earliest, now + std::chrono::seconds(10));
    return keeper_sleeps_until_ - now;
  }

  void load() {
    const auto snapshot = read_snapshot(config_.snapshot_file);
    if (!snapshot) return;
    store_id_ = snapshot->store_id;
    table_.restore_revision(snapshot->revision);
    const TimePoint now = boot_now();
    for (const Lease& lease : snapshot->leases) table_.restore_lease(lease.id, lease.ttl, now);
    for (const auto& pair : snapshot->pairs) table_.restore_pair(*pair);
    published_ = snapshot->revision;
  }

  const MemoryStoreConfig config_;
  const Home home_;
  const Signal wake_;  // the keeper has something to do, or nothing any more

  std::mutex save_mutex_;  // taken before mutex_, never inside it
  mutable std::mutex mutex_;
  Random random_;
  MemoryTable table_;
  std::string store_id_;
  std::int64_t published_ = 1;
  std::vector<MemoryWatch*> watches_;
  bool closed_ = false;
  bool unavailable_ = false;
  bool keeper_runs_ = false;
  TimePoint keeper_sleeps_until_;
  std::optional<TimePoint> unsaved_since_;
  std::error_code save_error_;
};

}  // namespace registry::detail

#include "registry/store/memory_watch.hpp"  // IWYU pragma: export
