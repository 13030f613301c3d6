// The endpoints of a cluster as gRPC is told of them: priorities, in these localities, in these addresses.
// Plain values that compare, so that only a difference is pushed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace registry {

/// One address that takes calls.
struct PublishedEndpoint {
  std::string ip;            ///< a literal, in the one spelling that inet_ntop gives it
  std::uint16_t port = 0;    ///< never 0
  std::uint32_t weight = 1;  ///< counts with ring hash only; never 0, the sum of a locality is below 2^32

  PublishedEndpoint() {}
  friend bool operator==(const PublishedEndpoint&, const PublishedEndpoint&) = default;
};

/// Endpoints among which calls are spread evenly (with ring hash: by their weights). Never without any:
/// gRPC 1.51 crashes on a locality without endpoints.
struct PublishedLocality {
  std::string region, zone;  ///< the client's own where it prefers them, else empty
  std::string sub_zone;      ///< tells the localities of a priority apart; means the same in every update
  std::uint32_t weight = 1;  ///< its share in its priority; never 0, the sum of a priority is below 2^32
  std::vector<PublishedEndpoint> endpoints;  ///< at least one

  PublishedLocality() {}
  friend bool operator==(const PublishedLocality&, const PublishedLocality&) = default;
};

/// All endpoints of a cluster. No (ip, port) is there twice.
struct EndpointAssignment {
  /// gRPC uses the first that works. None of them is empty; none at all: the cluster has no endpoint.
  std::vector<std::vector<PublishedLocality>> priorities;

  EndpointAssignment() {}
  /// Whether no endpoint takes calls.
  bool empty() const noexcept { return priorities.empty(); }
  friend bool operator==(const EndpointAssignment&, const EndpointAssignment&) = default;
};

}  // namespace registry
