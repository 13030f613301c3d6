// The two things policies may not fetch for themselves: the time (boot_now) and a draw (Random).
#pragma once

#include <time.h>

#include <chrono>
#include <cstdint>
#include <random>

namespace registry::detail {

/// Time that also passes while the machine sleeps (CLOCK_BOOTTIME): leases run out meanwhile. Only its
/// differences mean something; not comparable with steady_clock::now().
inline std::chrono::steady_clock::time_point boot_now() noexcept {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return std::chrono::steady_clock::time_point(std::chrono::seconds(now.tv_sec) +
                                               std::chrono::nanoseconds(now.tv_nsec));
}

/// One source of randomness for each core, seeded from the system. Not thread-safe.
class Random {
 public:
  Random() : engine_(seed()) {}

  /// Evenly distributed in [0, 1).
  double draw() { return static_cast<double>(engine_() >> 11) * 0x1.0p-53; }

  /// A positive 63-bit number, as etcd wants for lease ids.
  std::int64_t id() { return static_cast<std::int64_t>((engine_() >> 1) | 1); }

 private:
  static std::uint64_t seed() {
    std::random_device device;
    return (std::uint64_t{device()} << 32) ^ device();
  }

  std::mt19937_64 engine_;
};

}  // namespace registry::detail
