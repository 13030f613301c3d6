// The names of xDS resources. A Listener has the name that a channel asks for. The names of Clusters are ours, and gRPC
// 1.51 puts them into JSON without escaping them (a quote in one overflows its stack), so they are percent-encoded.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "registry/model/text.hpp"

namespace registry::detail {

/// The Cluster of a service, or of one version of it, and its endpoints: "<service>" or "<service>/<version>".
struct ClusterName {
  std::string service;
  std::optional<std::string> version;

  explicit ClusterName(std::string_view name) {
    const auto slash = name.find('/');
    service = percent_decoded(name.substr(0, slash));
    if (slash != std::string_view::npos) version = percent_decoded(name.substr(slash + 1));
  }

  static std::string of(std::string_view service) { return percent_encoded(service); }
  static std::string of(std::string_view service, std::string_view version) {
    return part_of(of(service), version);
  }
  /// The Cluster of one version, by the name of the service's.
  static std::string part_of(const std::string& cluster, std::string_view version) {
    return cluster + "/" + percent_encoded(version);
  }
};

}  // namespace registry::detail
