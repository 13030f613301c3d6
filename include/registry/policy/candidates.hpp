// Which instances of a list a balancer chooses from.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "registry/model/instance.hpp"
#include "registry/policy/nearness.hpp"
#include "registry/policy/weights.hpp"

namespace registry {

/// Where the caller of a balancer runs, and how much of its neighbourhood it needs.
struct BalancerConfig {
  /// Instances of this zone are preferred, then those of this region. Empty: no preference.
  std::string region, zone;
  /// With fewer instances than this in the zone the calls spill over into the region as well, and with fewer
  /// there into the rest. At least 1.
  std::size_t min_nearby = 1;

  BalancerConfig() {}
};

namespace detail {

struct Candidate {
  const ServiceInstance* instance = nullptr;
  std::uint32_t weight = 1;
};

/// Those that are Up, have a weight, and are near enough, in the order of the list.
inline std::vector<Candidate> candidates(const std::vector<std::shared_ptr<const ServiceInstance>>& list,
                                         const BalancerConfig& config) {
  std::vector<Candidate> found;
  found.reserve(list.size());
  std::vector<std::uint8_t> tiers;
  tiers.reserve(list.size());
  std::array<std::size_t, 3> count{};
  for (const auto& instance : list) {
    const std::uint32_t weight = share_of(*instance);
    if (weight == 0) continue;
    const int tier = tier_of(*instance, config.region, config.zone);
    found.push_back({instance.get(), weight});
    tiers.push_back(static_cast<std::uint8_t>(tier));
    ++count[static_cast<std::size_t>(tier)];
  }
  std::size_t farthest = 0, within = count[0];
  while (farthest < 2 && within < std::max<std::size_t>(config.min_nearby, 1)) within += count[++farthest];
  if (within == found.size()) return found;
  std::size_t kept = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    if (tiers[i] <= farthest) found[kept++] = found[i];
  }
  found.resize(kept);
  return found;
}

}  // namespace detail
}  // namespace registry
