// A watch of a MemoryBackend: a position in its history. There is no queue to overflow; a consumer that falls
// behind the history is told `compacted`.
#pragma once

#include <asio/awaitable.hpp>
#include <algorithm>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "registry/async/generator.hpp"
#include "registry/async/signal.hpp"
#include "registry/store/memory_backend.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

class MemoryWatch final : public GeneratorSource<Batch> {
 public:
  MemoryWatch(std::shared_ptr<MemoryBackend> backend, KeyRange range, std::int64_t from)
      : backend_(std::move(backend)), range_(std::move(range)), next_(from) {}
  ~MemoryWatch() override {
    const std::lock_guard lock(backend_->mutex_);
    detach();
  }

  void start() override {
    const std::lock_guard lock(backend_->mutex_);
    if (backend_->closed_) {
      error_ = errc::closed;
    } else if (backend_->unavailable_) {
      error_ = errc::unavailable;
    } else {
      backend_->watches_.push_back(this);
    }
  }

  std::optional<Batch> try_next() override {
    const std::lock_guard lock(backend_->mutex_);
    if (!ready() || over_) return std::nullopt;
    if (!error_ && next_ < backend_->table_.oldest()) error_ = errc::compacted;
    if (error_) {
      end();
      throw std::system_error(*error_, "watch from revision " + std::to_string(next_));
    }
    Batch batch;
    batch.store_id = backend_->store_id_;
    if (std::exchange(greeted_, true)) read(batch);
    batch.head = backend_->table_.revision();
    batch.through = next_ - 1;
    return batch;
  }

  bool ended() const override {
    const std::lock_guard lock(backend_->mutex_);
    return over_;
  }

  asio::awaitable<void> wait(WaitDeadline deadline) override {
    while (!ready_locked() && WaitDeadline::clock::now() < deadline) co_await changed_.wait_until(deadline);
  }

  void cancel() noexcept override {
    const std::lock_guard lock(backend_->mutex_);
    end();
    changed_.raise();
  }

 private:
  friend class MemoryBackend;
  static constexpr std::int64_t revisions_of_a_batch = 1000;

  // All of these with the backend's mutex held.

  bool ready() const { return over_ || error_ || !greeted_ || next_ <= backend_->table_.revision(); }

  void read(Batch& batch) {
    const MemoryTable& table = backend_->table_;
    // What concerns nobody here costs no batch of its own.
    for (std::int64_t left = revisions_of_a_batch;
         next_ <= table.revision() && (left > 0 || batch.changes.empty()); ++next_, --left) {
      for (const MemoryTable::Step& step : table.steps(next_)) {
        if (!range_.contains(step.key())) continue;
        Change& change = batch.changes.emplace_back();
        if (step.after) {
          change.kv = *step.after;
        } else {
          change.deleted = true;
          change.kv.key = step.key();
          change.kv.mod_revision = next_;
        }
      }
    }
  }

  /// A new revision. Those that do not concern a watch which is up to date move it on silently.
  void hear(std::int64_t revision, const MemoryTable::Steps& steps) {
    const auto inside = [this](const MemoryTable::Step& step) { return range_.contains(step.key()); };
    const bool concerned = std::any_of(steps.begin(), steps.end(), inside);
    if (next_ == revision && !concerned) {
      ++next_;
    } else if (next_ <= revision) {
      changed_.raise();
    }
  }

  void fail_with(errc why) noexcept {
    error_ = why;
    changed_.raise();
  }

  void end() noexcept {
    over_ = true;
    detach();
  }

  void detach() noexcept { std::erase(backend_->watches_, this); }

  bool ready_locked() const {
    const std::lock_guard lock(backend_->mutex_);
    return ready();
  }

  const std::shared_ptr<MemoryBackend> backend_;
  const KeyRange range_;
  const Signal changed_;
  std::int64_t next_;
  bool greeted_ = false;  // the first batch has been taken
  bool over_ = false;
  std::optional<errc> error_;
};

inline Generator<Batch> MemoryBackend::watch(KeyRange range, std::int64_t from) {
  if (from <= 0) {
    fail(errc::invalid_argument, "from = " + std::to_string(from) + ": name a revision above 0");
  }
  if (range.begin.empty() || (!range.end.empty() && range.end <= range.begin)) {
    fail(errc::invalid_argument,
         "range = [" + detail::quote(range.begin) + ", " + detail::quote(range.end) + "): is empty");
  }
  return Generator<Batch>(std::make_shared<MemoryWatch>(shared_from_this(), std::move(range), from));
}

inline void MemoryBackend::publish(TimePoint now) {
  if (published_ == table_.revision()) return;
  published_ = table_.revision();
  for (MemoryWatch* watch : watches_) watch->hear(published_, table_.steps(published_));
  unsaved(now);
}

inline void MemoryBackend::end_watches(errc why) noexcept {
  for (MemoryWatch* watch : std::exchange(watches_, {})) watch->fail_with(why);
}

}  // namespace registry::detail
