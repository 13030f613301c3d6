// Keeps one instance in the store: attach to a lease, claim the key, watch over it; lost: say so, back off,
// and begin again under a new lease, for ever.
#pragma once

#include <asio/awaitable.hpp>
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/async/signal.hpp"
#include "registry/model/config.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/registration.hpp"
#include "registry/policy/backoff.hpp"
#include "registry/policy/claim.hpp"
#include "registry/registration/event_hub.hpp"
#include "registry/registration/key_guard.hpp"
#include "registry/registration/lease_pool.hpp"
#include "registry/store/committer.hpp"

namespace registry::detail {

/// What all keepers of a Registrar share. Lives on its strand.
struct KeeperTools {
  RegistryConfig config;
  std::shared_ptr<LeasePool> leases;
  std::shared_ptr<Committer> committer;
  std::shared_ptr<KeyGuard> guard;
  std::shared_ptr<EventHub> events;
  Random random;
};

/// One key of ours. Lives on the strand of its tools: everything is called there. Inputs take effect at once,
/// in the claim; run() does what the claim asks for.
class Keeper : public LeaseMember, public KeyObserver, public std::enable_shared_from_this<Keeper> {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  Keeper(std::shared_ptr<KeeperTools> tools, std::string service, std::string id, std::string key)
      : tools_(std::move(tools)),
        service_(std::move(service)),
        id_(std::move(id)),
        claim_(std::move(key), tools_->config.on_conflict),
        backoff_(tools_->config.retry_interval, tools_->config.max_retry_interval) {}

  /// Register with this value on a lease of this TTL, or update either. Returns a number for stored() and failed().
  std::uint64_t desire(std::string value, std::chrono::seconds ttl) {
    failure_.clear();
    last_error_.clear();
    if (!claim_.wanted()) attempt_ = wanted_ + 1;
    claim_.desire(std::move(value), ttl);
    hurry();
    return ++wanted_;
  }

  /// Stop claiming, delete what is ours.
  void remove() {
    claim_.desire_absent();
    registered_ = lost_ = rest_ = false;
    last_error_.clear();
    hurry();
  }

  /// Every lease is given up although the key may still be there: what nobody else needs is revoked or runs out.
  void release_leases() {
    while (!leases_.empty()) let_go(leases_.back()->id);
  }

  /// Ends without the store: waiting callers get `reason`.
  void stop(std::error_code reason) {
    stopped_ = true;
    failure_ = reason;
    refused_ = wanted_;
    hurry();
    changed();
  }

  /// Whether run() must be started; it counts as running from here on.
  bool begin() { return !std::exchange(running_, true); }

  /// Until absent is reached: it returns when nothing of ours can appear any more, or when stopped.
  static asio::awaitable<void> run(std::shared_ptr<Keeper> self) {
    if (self->tools_->config.guard_keys) self->tools_->guard->add(self->service_, self->claim_.key(), self);
    while (!self->stopped_) {
      if (std::exchange(self->rest_, false)) co_await pause(self);
      const ClaimAction action = self->claim_.next();
      self->tell();
      switch (action.kind) {
        case ClaimAction::NeedLease: co_await attach(self); break;
        case ClaimAction::Write: co_await write(self, action.write); break;
        case ClaimAction::Displaced:
        case ClaimAction::Conflict: self->give_way(action); break;
        case ClaimAction::None: co_await wait(self); break;
        case ClaimAction::Done: self->stopped_ = true; break;
      }
    }
    self->stopped_ = self->running_ = false;
    self->release_leases();
    self->tools_->guard->remove(self->service_, self->claim_.key());
    self->changed();
  }

  /// Waits for a change that makes `holds` true. False: not before `deadline`.
  static asio::awaitable<bool> until(std::shared_ptr<Keeper> self, Deadline deadline,
                                     std::function<bool()> holds) {
    const Waiting waiting(self);
    while (!holds()) {
      if (std::chrono::steady_clock::now() >= deadline) co_return false;
      co_await waiting.signal().wait_until(deadline);
    }
    co_return true;
  }

  bool running() const { return running_; }
  /// The value of desire() number `which`, or a later one, is in the store.
  bool stored(std::uint64_t which) const { return stored_ >= which; }
  /// It will not be: see failure().
  bool failed(std::uint64_t which) const {
    return failure_ && (refused_ >= which || !claim_.wanted() || stopped_);
  }
  /// remove() is done: the store has confirmed that nothing of ours is there.
  bool removed() const { return !running_ || claim_.lingering(); }
  bool wanted() const { return claim_.wanted(); }
  const Problem& failure() const { return failure_; }
  /// Of the last try, if it failed.
  const Problem& last_error() const { return last_error_; }

  Registration receipt() const {
    const auto lease = held(claim_.current_lease());
    return Registration(id_, lease ? lease->id : 0, lease ? lease->renewal.ttl() : std::chrono::seconds(0),
                        claim_.revision());
  }
  bool stopped() const { return stopped_; }
  /// The desire() that began the present claim.
  std::uint64_t attempt() const { return attempt_; }
  /// The wanted one.
  std::chrono::seconds ttl() const { return claim_.ttl(); }
  const std::string& service() const { return service_; }
  const std::string& id() const { return id_; }
  const std::string& key() const { return claim_.key(); }

  void lease_gone(std::int64_t id, std::error_code reason) override {
    if (claim_.current_lease() == id) rest_ = claim_.wanted();
    claim_.lease_gone(id, reason);
    let_go(id);
    tell();
    wake_.raise();
    if (reason == errc::closed) fail_with(reason);
  }

  void lease_moved(std::int64_t from, std::shared_ptr<SharedLease> to) override {
    let_go(from);
    hold(std::move(to));
    wake_.raise();
  }

  void lease_denied() override { alone_ = true; }

  void observed(const KeyValue* kv, std::int64_t at) override {
    claim_.observed(kv, at);
    tell();
    wake_.raise();
  }

  void store_changed() override {
    claim_.forget();
    tell();
    wake_.raise();
  }

  void store_closed() override { fail_with(make_error_code(errc::closed)); }

 private:
  // A caller that waits for a change.
  class Waiting {
   public:
    explicit Waiting(std::shared_ptr<Keeper> keeper)
        : keeper_(std::move(keeper)), place_(keeper_->waiting_.emplace(keeper_->waiting_.end())) {}
    Waiting(const Waiting&) = delete;
    Waiting& operator=(const Waiting&) = delete;
    ~Waiting() { keeper_->waiting_.erase(place_); }
    const Signal& signal() const { return *place_; }

   private:
    const std::shared_ptr<Keeper> keeper_;
    const std::list<Signal>::iterator place_;
  };

  static asio::awaitable<void> attach(std::shared_ptr<Keeper> self) {
    std::shared_ptr<SharedLease> lease;
    Problem error;
    try {
      lease = co_await LeasePool::attach(self->tools_->leases, self->claim_.ttl(), self, self->alone_);
    } catch (const std::system_error& failure) {
      error = Problem(failure);
    }
    if (error) {
      self->fail_with(error);
      co_await pause(self);
    } else if (lease->has(self.get())) {  // else it was moved or lost meanwhile
      self->hold(lease);
      if (lease->state != SharedLease::Live) self->lease_gone(lease->id, make_error_code(errc::lease_lost));
    }
  }

  static asio::awaitable<void> write(std::shared_ptr<Keeper> self, Write write) {
    const std::int64_t lease = write.lease;
    Outcome outcome;
    Problem error;
    try {
      outcome = co_await Committer::write(self->tools_->committer, std::move(write));
    } catch (const std::system_error& failure) {
      error = Problem(failure);
    }
    if (!error) {
      self->claim_.written(outcome.written, outcome.revision);
      self->tell();
      co_return;
    }
    self->claim_.write_failed(error);
    self->fail_with(error);
    if (error == errc::lease_lost) {
      if (auto gone = self->held(lease)) self->tools_->leases->gone(std::move(gone));
      co_return;
    }
    co_await pause(self);
  }

  // Nothing to do: the key is ours, or a late write may still come.
  static asio::awaitable<void> wait(std::shared_ptr<Keeper> self) {
    if (!self->claim_.lingering()) {
      co_await self->wake_.wait();
      co_return;
    }
    self->release_leases();
    self->changed();
    for (const std::int64_t id : self->claim_.doubtful_leases()) {
      if (const auto lease = self->tools_->leases->find(id)) {
        lease->watch(self);
      } else {
        self->claim_.lease_gone(id, make_error_code(errc::lease_lost));
      }
    }
    if (!self->claim_.lingering()) co_return;
    if (self->tools_->config.guard_keys) {
      co_await self->wake_.wait();
    } else {
      co_await self->wake_.wait_until(std::chrono::steady_clock::now() +
                                      self->tools_->config.max_retry_interval);
      self->claim_.probe();
    }
  }

  void hold(std::shared_ptr<SharedLease> lease) {
    claim_.lease(lease->id, lease->wanted_ttl);
    leases_.push_back(std::move(lease));
  }

  std::shared_ptr<SharedLease> held(std::int64_t id) const {
    const auto found =
        std::find_if(leases_.begin(), leases_.end(), [id](const auto& each) { return each->id == id; });
    return found == leases_.end() ? nullptr : *found;
  }

  void let_go(std::int64_t id) {
    const auto lease = held(id);
    if (!lease) return;
    std::erase(leases_, lease);
    claim_.leave(id);
    lease->watch(shared_from_this());
    tools_->leases->release(lease, this);
  }

  static asio::awaitable<void> pause(std::shared_ptr<Keeper> self) {
    const auto pause = self->backoff_.next(self->tools_->random.draw());
    co_await self->hurry_.wait_until(std::chrono::steady_clock::now() + pause);
  }

  void hurry() {
    hurry_.raise();
    wake_.raise();
  }

  void fail_with(const Problem& error) {
    last_error_ = error;
    if (error == errc::closed) {
      if (claim_.wanted() && registered_) tools_->events->emit(RegistrationState::Closed, id_);
      stop(error);
    } else if (!is_retryable(error) && !is_indeterminate(error) && stored_ < wanted_) {
      // Trying again changes nothing. What was registered before stays.
      refused_ = wanted_;
      failure_ = error;
      claim_.revert();
    }
    changed();
  }

  void give_way(const ClaimAction& action) {
    failure_ = action.reason;
    refused_ = wanted_;
    claim_.desire_absent();
    if (std::exchange(registered_, false)) {
      tools_->events->emit(RegistrationState::Displaced, id_, make_error_code(action.reason));
    }
    lost_ = rest_ = false;
    release_leases();
    changed();
  }

  // Says what has become of the claim, if that is news.
  void tell() {
    const auto now = std::chrono::steady_clock::now();
    if (claim_.settled()) {
      for (const std::int64_t id : claim_.spare_leases()) let_go(id);
      if (!registered_ || lost_) {
        const bool first = !std::exchange(registered_, true);
        lost_ = rest_ = false;
        settled_at_ = now;
        tools_->events->emit(first ? RegistrationState::Registered : RegistrationState::Restored, id_);
      }
      backoff_.reset();
      const bool refused = failure_ && refused_ == wanted_;  // settled, but on the value before
      if (!refused && std::exchange(stored_, wanted_) != wanted_) changed();
    } else if (registered_ && !lost_ && claim_.lost()) {
      lost_ = true;
      // Somebody may delete it as fast as we restore it.
      rest_ = rest_ || now - settled_at_ < tools_->config.retry_interval;
      tools_->events->emit(RegistrationState::Lost, id_, claim_.lost_why());
      changed();
    }
  }

  void changed() {
    for (const Signal& each : waiting_) each.raise();
  }

  const std::shared_ptr<KeeperTools> tools_;
  const std::string service_, id_;
  Claim claim_;
  Backoff backoff_;
  std::vector<std::shared_ptr<SharedLease>> leases_;  // those that the claim keeps
  bool alone_ = false;                                // shares its lease with nobody

  bool running_ = false, stopped_ = false;
  bool registered_ = false;  // was told so
  bool lost_ = false;        // was told so
  bool rest_ = false;        // pause before the next try
  std::chrono::steady_clock::time_point settled_at_;
  std::uint64_t wanted_ = 0, stored_ = 0, refused_ = 0, attempt_ = 0;  // numbers of desires
  Problem failure_, last_error_;

  Signal wake_;   // there may be something to do
  Signal hurry_;  // ends a pause
  std::list<Signal> waiting_;
};

}  // namespace registry::detail
