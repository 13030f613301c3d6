// How near an instance is to a client: in its zone, in its region, or elsewhere.
#pragma once

#include <string_view>

#include "registry/model/instance.hpp"

namespace registry::detail {

/// 0: in the client's zone, 1: in its region, 2: elsewhere. A client that names neither has no preference: 2.
/// Names of zones are unique by themselves as a rule, so an instance need not say its region as well.
inline int tier_of(const ServiceInstance& instance, std::string_view region, std::string_view zone) noexcept {
  if (zone.empty() && region.empty()) return 2;
  const auto its_region = instance.region();
  const bool here = region.empty() || its_region.empty() || its_region == region;
  if (!zone.empty() && here && instance.zone() == zone) return 0;
  return !region.empty() && its_region == region ? 1 : 2;
}

}  // namespace registry::detail
