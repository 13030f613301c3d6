// What goes over an ADS stream, as far as its protocol is concerned: types of resources, names, nonces.
#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace registry {

/// The resources that are served. Routes are part of their Listener.
enum class XdsType { Listener, Cluster, Endpoints };

/// How the types are called in messages, in the order of XdsType.
inline constexpr std::array<std::string_view, 3> xds_type_urls = {
    "type.googleapis.com/envoy.config.listener.v3.Listener",
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
};

/// How a type is called in messages.
constexpr std::string_view type_url(XdsType type) noexcept {
  return xds_type_urls[static_cast<std::size_t>(type)];
}

/// The type with this URL; empty if it is none of ours.
constexpr std::optional<XdsType> xds_type(std::string_view url) noexcept {
  for (std::size_t i = 0; i < xds_type_urls.size(); ++i) {
    if (xds_type_urls[i] == url) return static_cast<XdsType>(i);
  }
  return std::nullopt;
}

/// A DiscoveryRequest. Its version_info is left out on purpose: it says nothing about whether an answer was
/// accepted, and after a reconnect it is one of another stream.
struct AdsRequest {
  std::string type_url;  ///< may be none of ours
  std::string nonce;     ///< response_nonce; empty: the client has seen no answer of this type
  std::vector<std::string>
      names;  ///< all that it wants of this type; none: no longer any, never "all there are"
  std::optional<std::string>
      error;  ///< the message of error_detail, if that is there: the answer was refused

  AdsRequest() {}
};

/// A DiscoveryResponse without its bytes.
struct AdsAnswer {
  XdsType type = XdsType::Listener;  ///< of all its resources
  std::string version;               ///< of the type, on this stream
  std::string nonce;                 ///< unique on this stream
  std::vector<std::string>
      names;  ///< in order; of Listeners and Clusters all that are subscribed, of endpoints one

  AdsAnswer() {}
};

/// An answer that the client refused.
struct AdsNack {
  XdsType type = XdsType::Listener;  ///< of the resources that were refused
  std::string name;     ///< of endpoints; empty for Listeners and Clusters, which are refused as a set
  std::string version;  ///< of the answer; empty if it is not known any more
  std::string text;     ///< the client's words, bounded; data, quote it where it is shown

  AdsNack() {}
};

/// What a request came to.
struct AdsOutcome {
  std::optional<XdsType> type;            ///< empty: not a type of ours, ignored; or refused
  std::vector<std::string> subscribed;    ///< names that are new, in order
  std::vector<std::string> unsubscribed;  ///< names that are no longer wanted, in order
  bool nacked = false;                    ///< last_nack() has the words
  std::string
      refusal;  ///< not empty: nothing was changed; end the stream with RESOURCE_EXHAUSTED and this text

  AdsOutcome() {}
};

}  // namespace registry
