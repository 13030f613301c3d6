// Draws of balancers: splitmix64, because a pick takes less time than a draw of Random.
#pragma once

#include <cstddef>
#include <cstdint>

#include "registry/async/clock.hpp"
#include "registry/policy/rendezvous.hpp"

namespace registry::detail {

/// Evenly distributed 64-bit numbers; one sequence for each thread. Not for secrets.
inline std::uint64_t thread_draw() {
  thread_local std::uint64_t state = static_cast<std::uint64_t>(Random().id());
  return mix_bits(state += 0x9E3779B97F4A7C15u);
}

/// Evenly distributed in [0, count); count is not 0.
inline std::size_t thread_draw(std::size_t count) {
  return static_cast<std::size_t>(((thread_draw() >> 32) * std::uint64_t{count}) >> 32);
}

}  // namespace registry::detail
