// The names of xDS resources. A Listener has the name that a channel asks for. The names of Clusters are ours, and gRPC
// 1.51 puts them into JSON without escaping them (a quote in one overflows its stack), so they are percent-encoded.
#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

namespace registry::detail {

/// As it may stand in the path of a URI.
inline std::string percent_encoded(std::string_view text, std::string_view also_plain = {}) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '-' || c == '.' || c == '_' || c == '~' ||
                       also_plain.find(c) != std::string_view::npos;
    if (plain) {
      encoded += c;
    } else {
      encoded += '%';
      encoded += digits[byte >> 4];
      encoded += digits[byte & 15];
    }
  }
  return encoded;
}

/// The reverse; what is no "%41" stays as it is.
inline std::string percent_decoded(std::string_view text) {
  std::string decoded;
  while (!text.empty()) {
    unsigned char byte = 0;
    const char* const end = text.data() + 3;
    if (text.size() >= 3 && text[0] == '%') {
      const auto [stop, error] = std::from_chars(text.data() + 1, end, byte, 16);
      if (error == std::errc() && stop == end) {
        decoded += static_cast<char>(byte);
        text.remove_prefix(3);
        continue;
      }
    }
    decoded += text[0];
    text.remove_prefix(1);
  }
  return decoded;
}

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
