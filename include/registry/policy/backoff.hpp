// How long to wait before the next try: exponential steps with full jitter, so that clients that failed
// together do not come back together.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace registry {

/// Pauses between tries. The ceiling starts at `first`, doubles with each failure and stops at `max`; a pause
/// is drawn evenly between half of `first` and the ceiling. The floor is not zero because a zero pause turns
/// a refused connection into a busy loop, and not half of the ceiling because late pauses must spread over
/// their whole range.
///
/// Thread safety: none of its own; keep it on one strand.
class Backoff {
 public:
  /// From 1 s to 30 s.
  Backoff() : Backoff(std::chrono::milliseconds(1000), std::chrono::milliseconds(30000)) {}

  /// Values below one millisecond count as one; a `max` below `first` counts as `first`.
  Backoff(std::chrono::milliseconds first, std::chrono::milliseconds max)
      : first_(std::max(first, std::chrono::milliseconds(1))),
        max_(std::max(max, first_)),
        ceiling_(first_) {}

  /// Counts a failure and returns the pause before the next try. `draw` is evenly distributed in [0, 1).
  std::chrono::milliseconds next(double draw) noexcept {
    const auto floor = std::max(first_ / 2, std::chrono::milliseconds(1));
    const auto span = static_cast<double>((ceiling_ - floor).count());
    const double share = draw > 0.0 ? std::min(draw, 1.0) : 0.0;  // also for a NaN
    const auto pause = floor + std::chrono::milliseconds(static_cast<std::int64_t>(span * share));
    ceiling_ = ceiling_ > max_ / 2 ? max_ : ceiling_ * 2;
    if (failures_ < UINT64_MAX) ++failures_;
    return std::min(pause, max_);
  }

  /// After a success: starts over at `first`.
  void reset() noexcept {
    ceiling_ = first_;
    failures_ = 0;
  }

  /// Failures since the last reset.
  std::uint64_t failures() const noexcept { return failures_; }

 private:
  std::chrono::milliseconds first_;
  std::chrono::milliseconds max_;
  std::chrono::milliseconds ceiling_;
  std::uint64_t failures_ = 0;
};

}  // namespace registry
