// Keeping one lease alive, decided without a clock: what was sent and answered goes in, what to do next comes
// out. The local deadline counts from the moment a request was sent, so it is never later than the store's
// own.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "registry/model/errors.hpp"

namespace registry {

/// What to do about a lease now.
struct RenewalAction {
  /// Which of three.
  enum Kind {
    Wait,   ///< nothing until `at`, then ask again
    Renew,  ///< send a renewal now, give up on its answer after `timeout`
    Lost,   ///< the lease must be taken for gone: stop claiming its keys first, then act on `reason`
  };
  Kind kind = Lost;                          ///< what to do
  std::chrono::steady_clock::time_point at;  ///< for Wait: until when
  std::chrono::milliseconds timeout{0};      ///< for Renew: how long to wait for the answer
  errc reason = errc::lease_lost;            ///< for Lost

  RenewalAction() {}
};

/// The life of one lease. Renewed at a third of its TTL (the phase jittered by 10 % so that leases granted
/// together do not stay together); a failed renewal is tried again soon until the local deadline, then the
/// lease is lost, answered or not. Lost is final until a new grant. At most one renewal is under way: ask
/// next() after reporting the last one.
///
/// Thread safety: none of its own; keep it on one strand.
class LeaseRenewal {
 public:
  /// Of the clock that the caller reads.
  using TimePoint = std::chrono::steady_clock::time_point;
  /// Between two of them.
  using Duration = TimePoint::duration;

  /// No lease yet: next() says Lost.
  LeaseRenewal() {}
  /// A lease that was granted: as granted().
  LeaseRenewal(TimePoint sent, std::chrono::seconds ttl) { granted(sent, ttl); }

  /// A new lease: the grant was sent at `sent`, the store answered `ttl`. Forgets an earlier lease.
  void granted(TimePoint sent, std::chrono::seconds ttl) noexcept {
    granted_ = sent;
    lost_ = ttl.count() <= 0;
    succeed(sent, ttl);
  }

  /// A renewal sent at `sent` was answered. A `ttl` of zero is the store's word that the lease is gone. An
  /// answer that comes late counts from its own sending, and extends nothing if a later renewal was answered
  /// before.
  void renewed(TimePoint sent, std::chrono::seconds ttl) noexcept {
    if (lost_ || sent < granted_) return;
    if (ttl.count() <= 0) {
      lost_ = true;
    } else if (sent >= sent_) {
      succeed(sent, ttl);
    }
  }

  /// A renewal failed or was not answered in time; known at `now`.
  void failed(TimePoint now) noexcept {
    failed_ = true;
    planned_ = false;
    from_ = now;
  }

  /// Some other call was told that the lease does not exist.
  void gone() noexcept { lost_ = true; }

  /// What to do at `now`. `draw` is evenly distributed in [0, 1); one is used for each renewal or retry, so
  /// asking early does not move the moment.
  RenewalAction next(TimePoint now, double draw) noexcept {
    RenewalAction action;
    action.at = now;
    if (!lost_ && now >= expires_at()) lost_ = true;
    if (lost_) return action;
    if (!planned_) plan(draw);
    const auto left = std::chrono::floor<std::chrono::milliseconds>(expires_at() - now);
    if (now < due_ || left.count() == 0) {
      action.kind = RenewalAction::Wait;
      action.at = now < due_ ? due_ : expires_at();
      return action;
    }
    const auto patience = std::chrono::floor<std::chrono::milliseconds>(ttl_ / 3);
    action.kind = RenewalAction::Renew;
    action.timeout = std::min({patience, std::chrono::milliseconds(2000), left});
    return action;
  }

  /// The local deadline: sending of the last answered request + TTL - margin. The margin (a tenth of the TTL,
  /// at most one second) is for clocks of different speed and for the time it takes to act.
  TimePoint expires_at() const noexcept {
    return sent_ + ttl_ - std::min<Duration>(ttl_ / 10, std::chrono::seconds(1));
  }

  /// Whether it is safe to attach a key at `now`: at least half of the TTL is left. A lease whose renewals
  /// are answered always passes (they come before 0.37 of the TTL); one whose renewals fail soon does not.
  bool fresh(TimePoint now) const noexcept { return !lost_ && now <= sent_ + ttl_ / 2 && now < expires_at(); }

  /// Whether the lease is gone, or none was granted yet.
  bool lost() const noexcept { return lost_; }

  /// The TTL of the last answer; zero before the first grant. Above 1e9 seconds it counts as 1e9, which still
  /// fits 64 bits of nanoseconds.
  std::chrono::seconds ttl() const noexcept { return std::chrono::duration_cast<std::chrono::seconds>(ttl_); }

 private:
  void succeed(TimePoint sent, std::chrono::seconds ttl) noexcept {
    sent_ = from_ = sent;
    ttl_ = std::clamp(ttl, std::chrono::seconds(0), std::chrono::seconds(1'000'000'000));
    failed_ = planned_ = false;
  }

  void plan(double draw) noexcept {
    const double share = draw > 0.0 ? std::min(draw, 1.0) : 0.0;
    if (failed_) {
      // Half to one and a half of a thirtieth of the TTL: some 17 tries that fail at once fit before the
      // deadline.
      const auto pause =
          std::clamp<Duration>(ttl_ / 30, std::chrono::milliseconds(50), std::chrono::seconds(5));
      due_ = from_ + scaled(pause, 0.5 + share);
    } else {
      due_ = from_ + scaled(ttl_ / 3, 0.9 + 0.2 * share);
    }
    due_ = std::min(due_, expires_at());
    planned_ = true;
  }

  static Duration scaled(Duration duration, double factor) noexcept {
    return Duration(static_cast<Duration::rep>(static_cast<double>(duration.count()) * factor));
  }

  TimePoint granted_;  // when the grant was sent
  TimePoint sent_;     // when the last answered request was sent
  TimePoint from_;     // what the next step counts from: sent_, or the last failure
  TimePoint due_;      // the next renewal, if planned_
  Duration ttl_{0};
  bool lost_ = true;
  bool failed_ = false;  // the last renewal failed
  bool planned_ = false;
};

}  // namespace registry
