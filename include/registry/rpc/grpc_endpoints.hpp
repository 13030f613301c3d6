// Which endpoints of an instance are gRPC's.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/endpoint.hpp"
#include "registry/model/instance.hpp"

namespace registry::detail {

/// The endpoints of an instance that speak gRPC: those that say so, or else those that say nothing.
inline std::vector<Endpoint> grpc_endpoints(const ServiceInstance& instance) {
  std::vector<Endpoint> said, silent;
  for (const auto& text : instance.endpoints) {
    std::optional<Endpoint> endpoint = parse_endpoint(text);
    if (!endpoint) continue;
    if (endpoint->scheme == "grpc" || endpoint->scheme == "grpcs")
      said.push_back(std::move(*endpoint));
    else if (endpoint->scheme.empty())
      silent.push_back(std::move(*endpoint));
  }
  return said.empty() ? silent : said;
}

}  // namespace registry::detail
