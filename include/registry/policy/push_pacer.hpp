// How often the changes of one service are pushed to gRPC: a channel pays for each update by the number of
// its endpoints, so bursts are folded.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

namespace registry {

/// The first change after a quiet time is pushed at once, later ones at least 1/rate seconds after the push
/// before; whatever changes in between goes with the next push, so the last state is always sent.
///
/// Thread safety: none of its own; keep it on one strand.
class PushPacer {
 public:
  /// Of the clock that the caller reads.
  using TimePoint = std::chrono::steady_clock::time_point;

  /// Pushes in a second.
  static constexpr unsigned default_rate = 20;

  /// At most `rate` pushes in any second; 0 counts as 1.
  explicit PushPacer(unsigned rate = default_rate)
      : interval_(
            (TimePoint::duration(std::chrono::seconds(1)) + TimePoint::duration(std::max(rate, 1u) - 1)) /
            std::max(rate, 1u)) {}

  /// Something is to be pushed.
  void changed() noexcept { pending_ = true; }

  /// When to push: `now` or later; empty if nothing is to be pushed.
  std::optional<TimePoint> due(TimePoint now) const noexcept {
    if (!pending_) return std::nullopt;
    return std::max(now, earliest_);
  }

  /// The state as it is at `now` is pushed. Call it when that state is read: what changes from then on is due
  /// again.
  void pushed(TimePoint now) noexcept {
    pending_ = false;
    earliest_ = now + interval_;
  }

 private:
  TimePoint::duration interval_;
  bool pending_ = false;
  TimePoint earliest_ = TimePoint::min();
};

}  // namespace registry
