// Weights: whose counts at all, and as gRPC takes them: not 0, and a sum of 32 bits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "registry/model/instance.hpp"

namespace registry::detail {

/// The weight of an instance that takes calls; 0 if it takes none.
inline std::uint32_t share_of(const ServiceInstance& instance) noexcept {
  return instance.status() == InstanceStatus::Up ? instance.weight() : 0;
}

/// The same proportions with a sum below 2^32; the weights are left as they are if they fit. None may be 0,
/// none becomes 0.
inline std::vector<std::uint32_t> fit_weights(const std::vector<std::uint64_t>& weights) {
  const std::uint64_t sum = std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
  // Room for those that are raised to 1.
  const std::uint64_t limit = std::numeric_limits<std::uint32_t>::max() - weights.size();
  const std::uint64_t divisor = sum <= limit ? 1 : sum / limit + 1;
  std::vector<std::uint32_t> made;
  made.reserve(weights.size());
  for (const std::uint64_t weight : weights) {
    made.push_back(static_cast<std::uint32_t>(std::max<std::uint64_t>(weight / divisor, 1)));
  }
  return made;
}

}  // namespace registry::detail
