// Names of localities that lead gRPC to nobody who was taken out. gRPC keeps what it balances with by the name of the
// locality: the list before an update stays in use until an endpoint of the next one is connected, and that of a
// locality that is gone is kept for 15 minutes and taken up again when the name comes back. So a name goes on only
// where what it stood for is still right; otherwise the locality gets a name of a new generation.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "registry/policy/endpoint_assignment.hpp"

namespace registry::detail {

/// Of one cluster; sees every assignment before it is published. Not thread-safe.
class LocalityNames {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  /// For how long a name that is gone is remembered: longer than gRPC does.
  static constexpr std::chrono::minutes memory{20};

  /// Names the localities of the next assignment: "weight-3", later perhaps "weight-3#1".
  void settle(EndpointAssignment& next, TimePoint now) {
    for (auto& [name, known] : known_) known.present = std::exchange(known.named, false);
    for (auto& priority : next.priorities) {
      for (PublishedLocality& locality : priority) name(locality, now);
    }
    std::erase_if(known_,
                  [&](const auto& each) { return !each.second.named && now - each.second.last > memory; });
  }

 private:
  using Name = std::tuple<std::string, std::string, std::string>;
  using Address = std::pair<std::string, std::uint16_t>;

  struct Known {
    std::uint64_t generation = 0;
    std::vector<Address> addresses;  // sorted
    bool named = false;              // in the assignment that is being named
    bool present = false;            // in the one before
    TimePoint last;
  };

  void name(PublishedLocality& locality, TimePoint now) {
    std::vector<Address> addresses;
    for (const PublishedEndpoint& each : locality.endpoints) addresses.emplace_back(each.ip, each.port);
    std::sort(addresses.begin(), addresses.end());
    const auto [place, fresh] = known_.try_emplace(Name(locality.region, locality.zone, locality.sub_zone));
    Known& known = place->second;
    if (!fresh && !goes_on(known, addresses)) ++known.generation;
    known.addresses = std::move(addresses);
    known.named = true;
    known.last = now;
    if (known.generation != 0) locality.sub_zone += "#" + std::to_string(known.generation);
  }

  /// One that was there: if an endpoint stays, which is connected. One that comes back: if all that it had are in it.
  static bool goes_on(const Known& known, const std::vector<Address>& addresses) {
    if (!known.present)
      return std::includes(addresses.begin(), addresses.end(), known.addresses.begin(),
                           known.addresses.end());
    return std::any_of(addresses.begin(), addresses.end(), [&](const Address& each) {
      return std::binary_search(known.addresses.begin(), known.addresses.end(), each);
    });
  }

  std::map<Name, Known> known_;
};

}  // namespace registry::detail
