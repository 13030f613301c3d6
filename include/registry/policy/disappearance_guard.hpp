// Whether instances that vanish from a service all at once are believed to be gone: a cluster that lost its leases or
// was restored empty says the same as a service that really went down.
#pragma once

#include <chrono>
#include <cstddef>
#include <optional>
#include <utility>

namespace registry {

/// Compares how many instances there are with how many there were when that was last steady. While more than `limit`
/// of them (a share from 0 to 1; at 1 never) are missing, what vanished is held: until enough are back, or for `hold`
/// from the first time that too many were missing. Then what is there counts as right.
///
/// Thread safety: none of its own; keep it on one strand.
class DisappearanceGuard {
 public:
  /// Of the clock that the caller reads.
  using TimePoint = std::chrono::steady_clock::time_point;

  /// What to do about what is held.
  struct Action {
    bool release = false;  ///< give up all that was held before
    bool hold = false;     ///< then go on showing what this change removed
  };

  /// Nothing is there yet.
  DisappearanceGuard(double limit, std::chrono::milliseconds hold) : limit_(limit), hold_(hold) {}

  /// The store's list changed; it has `live` instances now.
  Action changed(std::size_t live, TimePoint now) {
    Action action = passed(now);
    live_ = live;
    if (live_ >= steady_) {
      steady_ = live_;
      missing_since_.reset();
      action.release = settle() || action.release;
      return action;
    }
    const bool too_many = static_cast<double>(steady_ - live_) > limit_ * static_cast<double>(steady_);
    if (!missing_since_ || (too_many && !holding_)) missing_since_ = now;
    if (too_many) {
      holding_ = action.hold = true;
    } else {
      action.release = settle() || action.release;
    }
    return action;
  }

  /// Time went by, and nothing changed.
  Action passed(TimePoint now) {
    Action action;
    if (!missing_since_ || now < *missing_since_ + hold_) return action;
    steady_ = live_;
    missing_since_.reset();
    action.release = settle();
    return action;
  }

  /// While it holds: when passed() gives up. Else the far future.
  TimePoint due() const { return holding_ ? *missing_since_ + hold_ : TimePoint::max(); }
  /// Whether something is held.
  bool holding() const { return holding_; }

 private:
  bool settle() { return std::exchange(holding_, false); }

  const double limit_;
  const std::chrono::milliseconds hold_;
  std::size_t steady_ = 0, live_ = 0;
  std::optional<TimePoint> missing_since_;  // fewer than steady_; while holding: too few
  bool holding_ = false;
};

}  // namespace registry
