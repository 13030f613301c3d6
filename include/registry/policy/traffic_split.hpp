// Canary releases: the calls to a service shared out among its versions, each version a cluster of its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "registry/policy/weights.hpp"

namespace registry {

/// One version's part of the calls.
struct VersionWeight {
  std::string version;       ///< as in ServiceInstance
  std::uint32_t weight = 0;  ///< its part of TrafficSplit::total

  VersionWeight() {}
  /// This version and this part.
  VersionWeight(std::string name, std::uint32_t part) : version(std::move(name)), weight(part) {}
  friend bool operator==(const VersionWeight&, const VersionWeight&) = default;
};

/// What to route by.
struct TrafficSplit {
  std::vector<VersionWeight> versions;  ///< by version; no weight is 0
  std::uint32_t total = 0;              ///< the sum of the weights, which gRPC wants to be told exactly

  TrafficSplit() {}
  /// No version has a share: route to the service as a whole.
  bool empty() const noexcept { return versions.empty(); }
  friend bool operator==(const TrafficSplit&, const TrafficSplit&) = default;
};

/// `shares`: of each version, in any unit (90 and 10); 0 asks for no calls. `usable(version)`: whether it has
/// an instance that takes calls. A version without one leaves its share to the others in proportion to
/// theirs; if none has one the shares stay as configured, and calls wait or fail as they do with an empty
/// service. Versions that are not mentioned get nothing.
template <class Usable>
TrafficSplit split_traffic(const std::map<std::string, std::uint32_t>& shares, Usable&& usable) {
  std::vector<std::uint64_t> weights, all_weights;
  TrafficSplit split, all;
  for (const auto& [version, share] : shares) {
    if (share == 0) continue;
    all.versions.emplace_back(version, share);
    all_weights.push_back(share);
    if (!usable(version)) continue;
    split.versions.emplace_back(version, share);
    weights.push_back(share);
  }
  if (split.versions.empty()) split = std::move(all), weights = std::move(all_weights);
  const std::vector<std::uint32_t> fitted = detail::fit_weights(weights);
  for (std::size_t i = 0; i < fitted.size(); ++i) split.total += split.versions[i].weight = fitted[i];
  return split;
}

}  // namespace registry
