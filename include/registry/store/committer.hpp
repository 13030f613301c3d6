// Group commit: writes that come while others are under way travel together. Each writer gets its own answer.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/post.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <cstdint>
#include <exception>
#include <memory>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/policy/commit_groups.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

/// What became of one write of a group.
struct Outcome {
  Written written;
  std::int64_t revision = 0;  ///< of the commit

  Outcome() {}
};

/// Lives on the strand `home`: everything is called there.
class Committer : public std::enable_shared_from_this<Committer> {
 public:
  Committer(std::shared_ptr<StoreBackend> backend, Home home)
      : backend_(std::move(backend)), scope_(home), groups_(backend_->limits()) {}

  /// Queues the write and returns its outcome. Throws what the commit throws; a definite error that one write
  /// causes reaches that write only. Cancellation takes a queued write back; the outcome of one under way is
  /// dropped.
  static asio::awaitable<Outcome> write(std::shared_ptr<Committer> self, Write write) {
    const auto entry = std::make_shared<Entry>(std::move(write));
    const Queued queued(self, entry);
    co_await entry->done.wait();
    if (entry->error) entry->error.raise();
    co_return std::move(entry->outcome);
  }

  /// Cancels what is under way; writers get `operation_aborted`, later ones `closed`.
  void cancel() {
    scope_.cancel();
    auto entries = std::exchange(entries_, {});
    for (const auto& [ticket, entry] : entries) {
      entry->error = make_error_code(std::errc::operation_canceled);
      entry->done.raise();
    }
  }

  static asio::awaitable<void> join(std::shared_ptr<Committer> self) { co_await self->scope_.join(); }

 private:
  // Two commits under way: a third would make groups smaller, and with one everybody waits for the slowest.
  static constexpr std::size_t max_under_way = 2;
  using Ticket = CommitGroups::Ticket;

  struct Entry {
    explicit Entry(Write to_write) : write(std::move(to_write)) {}
    Write write;
    Outcome outcome;
    Problem error;
    Signal done;
  };

  // A place in the queue for as long as its writer waits.
  class Queued {
   public:
    Queued(std::shared_ptr<Committer> committer, const std::shared_ptr<Entry>& entry)
        : committer_(std::move(committer)), ticket_(++committer_->last_ticket_) {
      if (committer_->scope_.cancelled()) {
        entry->error = make_error_code(errc::closed);
        entry->done.raise();
        return;
      }
      committer_->groups_.add(CommitGroups::Item(ticket_, entry->write));
      committer_->entries_.emplace(ticket_, entry);
      committer_->start();
    }
    Queued(const Queued&) = delete;
    Queued& operator=(const Queued&) = delete;
    ~Queued() {
      if (committer_->groups_.remove(ticket_)) committer_->entries_.erase(ticket_);
    }

   private:
    const std::shared_ptr<Committer> committer_;
    const Ticket ticket_;
  };

  // Writes that come together go together: a commit that they do not fill waits for a turn of the strand.
  void start() {
    if (running_ == max_under_way || !groups_.waiting()) return;
    const bool full = groups_.full();
    if (gathering_ && !full) return;
    ++running_;
    gathering_ = gathering_ || !full;
    scope_.spawn(full ? run(shared_from_this()) : gather_and_run(shared_from_this()));
  }

  static asio::awaitable<void> gather_and_run(std::shared_ptr<Committer> self) {
    const auto strand = co_await asio::this_coro::executor;
    co_await asio::post(strand, asio::use_awaitable);
    self->gathering_ = false;
    co_await run(self);
  }

  static asio::awaitable<void> run(std::shared_ptr<Committer> self) {
    while (!self->scope_.cancelled()) {
      auto group = self->groups_.next();
      if (group.empty()) break;
      self->start();  // the next one, beside this one
      co_await commit(self, std::move(group));
    }
    --self->running_;
  }

  static asio::awaitable<void> commit(std::shared_ptr<Committer> self, CommitGroups::Group group) {
    std::vector<Write> writes;
    for (const auto& item : group) writes.push_back(self->entries_.at(item.ticket)->write);
    Committed committed;
    Problem error;
    try {
      committed = co_await self->backend_->commit(std::move(writes));
      if (committed.results.size() != group.size()) error = errc::outcome_unknown;
    } catch (const std::system_error& failure) {
      error = Problem(failure);
    }
    if (self->scope_.cancelled()) co_return;
    if (error) {
      for (const auto& item : self->groups_.failed(std::move(group), error).failed) {
        self->finish(item.ticket, error);
      }
      co_return;
    }
    for (std::size_t i = 0; i < group.size(); ++i) {
      Outcome outcome;
      outcome.written = std::move(committed.results[i]);
      outcome.revision = committed.revision;
      self->finish(group[i].ticket, {}, std::move(outcome));
    }
    self->groups_.done(group);
  }

  void finish(Ticket ticket, Problem error, Outcome outcome = Outcome()) {
    const auto found = entries_.find(ticket);
    if (found == entries_.end()) return;
    const auto entry = std::move(found->second);
    entries_.erase(found);
    entry->error = error;
    entry->outcome = std::move(outcome);
    entry->done.raise();
  }

  const std::shared_ptr<StoreBackend> backend_;
  TaskScope scope_;
  CommitGroups groups_;
  std::unordered_map<Ticket, std::shared_ptr<Entry>> entries_;
  Ticket last_ticket_ = 0;
  std::size_t running_ = 0;  // loops that commit
  bool gathering_ = false;   // one of them waits for its turn
};

}  // namespace registry::detail
