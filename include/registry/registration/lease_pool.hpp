// Leases shared by many keys: instances with the same TTL live on the same lease, each lease is renewed by
// one coroutine.
#pragma once

#include <asio/awaitable.hpp>
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/sleep.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/model/errors.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/backoff.hpp"
#include "registry/policy/renewal.hpp"
#include "registry/registration/shared_lease.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

/// Lives on the strand `home`: everything is called there.
class LeasePool : public std::enable_shared_from_this<LeasePool> {
 public:
  LeasePool(std::shared_ptr<StoreBackend> backend, Home home, Observer observer)
      : backend_(std::move(backend)), observer_(std::move(observer)), scope_(home), revokes_(home) {}

  /// Puts `member` on a freshly renewed lease of this TTL. Callers that come together share one grant.
  /// `alone`: on a lease that nobody else gets. Throws what the grant throws.
  static asio::awaitable<std::shared_ptr<SharedLease>> attach(std::shared_ptr<LeasePool> self,
                                                              std::chrono::seconds ttl,
                                                              std::shared_ptr<LeaseMember> member,
                                                              bool alone) {
    if (alone) {
      auto lease = co_await grant(self, ttl);
      lease->open = false;
      lease->add(member);
      self->keep(lease);
      co_return lease;
    }
    if (self->scope_.cancelled()) fail(errc::closed);
    if (auto lease = self->usable(ttl)) {
      lease->add(member);
      co_return lease;
    }
    const auto waiter = self->wait_for_grant(ttl, member);
    co_await waiter->done.wait();
    if (waiter->error) waiter->error.raise();
    co_return waiter->lease;
  }

  /// The member needs its lease no longer. A lease without members is revoked, which deletes exactly the keys
  /// still on it.
  void release(const std::shared_ptr<SharedLease>& lease, const LeaseMember* member) {
    lease->remove(member);
    if (lease->size() != 0 || lease->state != SharedLease::Live) return;
    lease->state = SharedLease::Unused;
    lease->wake.raise();
  }

  /// Some other call was told that this lease does not exist.
  void gone(std::shared_ptr<SharedLease> lease) {
    lease->renewal.gone();
    lose(lease, errc::lease_lost);
  }

  /// The lease with this id, if it is renewed or may be alive in the store.
  std::shared_ptr<SharedLease> find(std::int64_t id) const {
    for (const auto& lease : leases_) {
      if (lease->id == id) return lease;
    }
    return nullptr;
  }

  std::size_t size() const { return leases_.size(); }

  /// Renews nothing more and revokes every lease that may be alive, all at once, until all is answered or the
  /// time has come.
  static asio::awaitable<void> revoke_all(std::shared_ptr<LeasePool> self,
                                          std::chrono::steady_clock::time_point deadline) {
    self->scope_.cancel();
    const auto leases = self->leases_;
    for (const auto& lease : leases) {
      lease->state = SharedLease::Gone;
      self->revokes_.spawn(revoke(self, lease->id, deadline));
    }
    for (const auto& [ttl, id] : self->unanswered_) self->revokes_.spawn(revoke(self, id, deadline));
    co_await self->revokes_.join(deadline);
  }

  /// Ends everything without the store; the leases run out.
  void cancel() {
    scope_.cancel();
    revokes_.cancel();
    for (const auto& grant : std::exchange(grants_, {})) grant->end(nullptr, errc::closed);
    leases_.clear();
  }

  static asio::awaitable<void> join(std::shared_ptr<LeasePool> self) {
    co_await self->scope_.join();
    co_await self->revokes_.join();
  }

 private:
  struct Waiter {
    std::weak_ptr<LeaseMember> member;  // members own their leases, not the other way round
    std::shared_ptr<SharedLease> lease;
    Problem error;
    Signal done;
  };

  struct Grant {
    std::chrono::seconds ttl{0};
    std::vector<std::shared_ptr<Waiter>> waiters;

    void end(const std::shared_ptr<SharedLease>& lease, const Problem& error) {
      for (const auto& waiter : waiters) {
        const auto member = waiter->member.lock();
        if (lease && member) lease->add(member);
        waiter->lease = lease;
        waiter->error = error;
        waiter->done.raise();
      }
    }
  };

  std::shared_ptr<SharedLease> usable(std::chrono::seconds ttl) const {
    const auto now = boot_now();
    for (const auto& lease : leases_) {
      if (lease->wanted_ttl == ttl && lease->takes_more(now)) return lease;
    }
    return nullptr;
  }

  std::shared_ptr<Waiter> wait_for_grant(std::chrono::seconds ttl,
                                         const std::shared_ptr<LeaseMember>& member) {
    auto waiter = std::make_shared<Waiter>();
    waiter->member = member;
    auto grant = std::find_if(grants_.begin(), grants_.end(), [ttl](const auto& each) {
      return each->ttl == ttl && each->waiters.size() < SharedLease::max_members;
    });
    if (grant == grants_.end()) {
      grant = grants_.insert(grant, std::make_shared<Grant>());
      (*grant)->ttl = ttl;
      (*grant)->waiters.push_back(waiter);
      scope_.spawn(grant_shared(shared_from_this(), *grant));
    } else {
      (*grant)->waiters.push_back(waiter);
    }
    return waiter;
  }

  static asio::awaitable<void> grant_shared(std::shared_ptr<LeasePool> self,
                                            std::shared_ptr<Grant> under_way) {
    std::shared_ptr<SharedLease> lease;
    Problem error;
    try {
      lease = co_await grant(self, under_way->ttl);
    } catch (const std::system_error& failure) {
      error = Problem(failure);
    }
    std::erase(self->grants_, under_way);
    under_way->end(lease, error);
    if (lease) self->keep(std::move(lease));
  }

  // An unanswered grant is tried again under its id: then "exists already" means that it was granted.
  static asio::awaitable<std::shared_ptr<SharedLease>> grant(std::shared_ptr<LeasePool> self,
                                                             std::chrono::seconds ttl) {
    const auto unanswered = self->unanswered_.extract(ttl);
    const std::int64_t id = unanswered.empty() ? self->random_.id() : unanswered.mapped();
    auto sent = boot_now();
    std::chrono::seconds granted{0};
    Problem error;
    try {
      granted = (co_await self->backend_->grant(id, ttl)).ttl;
    } catch (const std::system_error& failure) {
      error = Problem(failure);
    }
    if (error == errc::lease_exists && !unanswered.empty()) {
      error.clear();
      sent = boot_now();
      try {
        granted = co_await self->backend_->renew(id, patience);
        if (granted.count() == 0) error = errc::lease_lost;
      } catch (const std::system_error& failure) {
        error = Problem(failure);
        self->unanswered_.emplace(ttl, id);
      }
    } else if (is_indeterminate(error) || (error && !unanswered.empty())) {
      self->unanswered_.emplace(ttl, id);
    }
    if (error) error.raise();
    co_return std::make_shared<SharedLease>(id, ttl, sent, granted);
  }

  void keep(std::shared_ptr<SharedLease> lease) {
    if (scope_.cancelled()) return;
    leases_.push_back(lease);
    if (lease->size() == 0) lease->state = SharedLease::Unused;
    scope_.spawn(keep_alive(shared_from_this(), std::move(lease)));
  }

  // Renews the lease until it is lost or nobody needs it.
  static asio::awaitable<void> keep_alive(std::shared_ptr<LeasePool> self,
                                          std::shared_ptr<SharedLease> lease) {
    while (lease->state == SharedLease::Live) {
      const RenewalAction action = lease->renewal.next(boot_now(), self->random_.draw());
      if (action.kind == RenewalAction::Lost) {
        // Why it could not be renewed, if that is more than silence.
        const bool told = lease->last_error && !is_retryable(lease->last_error);
        self->lose(lease, told ? lease->last_error : make_error_code(action.reason));
      } else if (action.kind == RenewalAction::Renew) {
        co_await renew(self, lease, action.timeout);
      } else {
        // A timer stands still while the machine sleeps, leases do not.
        const auto pause =
            std::min<std::chrono::steady_clock::duration>(action.at - boot_now(), std::chrono::seconds(10));
        co_await lease->wake.wait_until(std::chrono::steady_clock::now() + pause);
      }
    }
    if (lease->state == SharedLease::Unused) {
      co_await revoke(self, lease->id,
                      std::chrono::steady_clock::now() + (lease->renewal.expires_at() - boot_now()));
      lease->state = SharedLease::Gone;
    } else if (lease->state == SharedLease::Abandoned) {
      co_await sleep_for(
          std::max<std::chrono::steady_clock::duration>(lease->renewal.expires_at() - boot_now(), {}));
      lease->state = SharedLease::Gone;
    }
    std::erase(self->leases_, lease);
    for (const auto& each : lease->take_watchers())
      each->lease_gone(lease->id, make_error_code(errc::lease_lost));
  }

  static asio::awaitable<void> renew(std::shared_ptr<LeasePool> self, std::shared_ptr<SharedLease> lease,
                                     std::chrono::milliseconds timeout) {
    const auto sent = boot_now();
    std::chrono::seconds ttl{0};
    std::error_code error;
    try {
      ttl = co_await self->backend_->renew(lease->id, timeout);
    } catch (const std::system_error& failure) {
      error = failure.code();
    }
    lease->last_error = error;
    if (!error) {
      lease->renewal.renewed(sent, ttl);
      lease->open = lease->open || lease->suspect;
      lease->suspect = false;
      self->observer_.count(metric::renewals);
      co_return;
    }
    if (self->scope_.cancelled()) co_return;
    lease->renewal.failed(boot_now());
    self->observer_.count(metric::renewal_failures);
    if (error == errc::closed) lease->renewal.gone();
    if (error == errc::permission_denied && lease->state == SharedLease::Live) co_await split(self, lease);
  }

  // One key of this lease may not be written, so none of them is renewed. The members move to new leases in
  // halves; the half with the poisoned key is split again, until that key is alone.
  static asio::awaitable<void> split(std::shared_ptr<LeasePool> self, std::shared_ptr<SharedLease> lease) {
    const auto members = lease->members();
    if (members.size() < 2) {
      for (const auto& member : members) member->lease_denied();
      co_return;
    }
    self->observer_.log(LogLevel::Warning,
                        "one of " + std::to_string(members.size()) +
                            " keys of a lease may not be written, so it cannot be renewed: splitting it");
    const auto middle = members.begin() + static_cast<std::ptrdiff_t>(members.size() / 2);
    const std::vector<std::shared_ptr<LeaseMember>> halves[] = {{members.begin(), middle},
                                                                {middle, members.end()}};
    std::vector<std::shared_ptr<SharedLease>> fresh;
    try {
      for (std::size_t i = 0; i < 2; ++i) {
        auto half = co_await grant(self, lease->wanted_ttl);
        half->suspect = true;
        half->open = false;
        fresh.push_back(std::move(half));
      }
    } catch (const std::system_error&) {
      // The renewal fails again soon, and so comes back here, or the lease is lost.
    }
    if (fresh.size() < 2 || lease->state != SharedLease::Live) {
      for (const auto& half : fresh) self->keep(half);  // without members: revoked
      co_return;
    }
    lease->state = SharedLease::Abandoned;
    for (std::size_t i = 0; i < 2; ++i) {
      for (const auto& member : halves[i]) {
        if (!lease->remove(member.get())) continue;
        fresh[i]->add(member);
        lease->watch(member);
        member->lease_moved(lease->id, fresh[i]);
      }
      self->keep(fresh[i]);
    }
  }

  // By value: a member gives the lease up while it is told.
  void lose(std::shared_ptr<SharedLease> lease, std::error_code reason) {
    if (lease->state == SharedLease::Gone) return;
    lease->state = SharedLease::Gone;
    lease->wake.raise();
    observer_.log(LogLevel::Warning, "a lease is lost: " + reason.message());
    for (const auto& member : lease->members()) member->lease_gone(lease->id, reason);
  }

  static asio::awaitable<void> revoke(std::shared_ptr<LeasePool> self, std::int64_t id,
                                      std::chrono::steady_clock::time_point until) {
    Backoff backoff(std::chrono::milliseconds(100), std::chrono::milliseconds(2000));
    std::error_code error;
    do {
      error.clear();
      try {
        co_await self->backend_->revoke(id);
      } catch (const std::system_error& failure) {
        error = failure.code();
      }
      if (!error || error == errc::lease_lost || !is_retryable(error) || self->revokes_.cancelled()) break;
      co_await sleep_for(backoff.next(self->random_.draw()));
    } while (std::chrono::steady_clock::now() < until);
  }

  static constexpr std::chrono::milliseconds patience{2000};

  const std::shared_ptr<StoreBackend> backend_;
  const Observer observer_;
  Random random_;
  TaskScope scope_;    // grants and renewals
  TaskScope revokes_;  // of revoke_all()
  std::vector<std::shared_ptr<SharedLease>> leases_;
  std::vector<std::shared_ptr<Grant>> grants_;                    // under way
  std::multimap<std::chrono::seconds, std::int64_t> unanswered_;  // ids of grants that may have been granted
};

}  // namespace registry::detail
