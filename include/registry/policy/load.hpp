// What a balancer knows of the load of one instance: calls in flight, and a latency that follows a rise at once and
// a fall slowly (a decaying peak).
#pragma once

#include <atomic>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>

namespace registry::detail {

/// Thread-safe, without a lock. Times come in as milliseconds of any clock that does not go back; they may wrap.
class Load {
 public:
  void begin() noexcept { in_flight_.fetch_add(1, std::memory_order_relaxed); }

  /// A call has ended after `seconds`. `memory`: how long a peak is remembered, in milliseconds.
  void end(float seconds, std::uint32_t now, float memory) noexcept {
    in_flight_.fetch_sub(1, std::memory_order_relaxed);
    std::uint64_t known = latency_.load(std::memory_order_relaxed);
    for (;;) {
      const float before = decayed(known, now, memory);
      // Below the peak an average that a sample moves by as much as time has passed.
      const float kept = known == 0 ? 0.0f : remaining(known, now, memory);
      const float after = seconds > before ? seconds : stored(known) * kept + seconds * (1.0f - kept);
      if (latency_.compare_exchange_weak(known, pack(after, now), std::memory_order_relaxed)) return;
    }
  }

  std::uint32_t in_flight() const noexcept { return in_flight_.load(std::memory_order_relaxed); }

  /// What the next call would cost here; lower is better. An instance that was never heard of is tried with one call
  /// and then left alone until that has ended: nobody knows yet whether it answers at all.
  float cost(std::uint32_t weight, std::uint32_t now, float memory) const noexcept {
    const std::uint64_t known = latency_.load(std::memory_order_relaxed);
    const auto waiting = static_cast<float>(in_flight());
    const auto share = static_cast<float>(weight);
    if (known == 0) return waiting == 0 ? 0.0f : unknown * waiting / share;
    return decayed(known, now, memory) * (waiting + 1.0f) / share;
  }

 private:
  static constexpr float unknown = 1e6f;  // seconds
  static constexpr float least = 1e-6f;   // seconds: below it only the calls in flight count

  static std::uint64_t pack(float seconds, std::uint32_t now) noexcept {
    const float kept = seconds > least ? seconds : least;
    return (std::uint64_t{std::bit_cast<std::uint32_t>(kept)} << 32) | now;
  }
  static float stored(std::uint64_t known) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(known >> 32));
  }
  /// What time has left of a peak; 1 at once, also if another thread's clock was read a little later.
  static float remaining(std::uint64_t known, std::uint32_t now, float memory) noexcept {
    const auto passed = static_cast<std::int32_t>(now - static_cast<std::uint32_t>(known));
    if (passed <= 0) return 1.0f;
    const float part = static_cast<float>(passed) / memory;
    return 1.0f / (1.0f + part + part * part / 2.0f);  // close to exp(-part), and cheap
  }
  static float decayed(std::uint64_t known, std::uint32_t now, float memory) noexcept {
    if (known == 0) return 0.0f;
    const float left = stored(known) * remaining(known, now, memory);
    return left > least ? left : least;
  }

  std::atomic<std::uint32_t> in_flight_{0};
  std::atomic<std::uint64_t> latency_{0};  // float seconds and the time of the last sample; 0: none yet
};

}  // namespace registry::detail
