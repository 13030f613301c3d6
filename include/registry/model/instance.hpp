// One running copy of a service, as it is published and found: who it is, where it listens, and free-form
// metadata with a few well-known entries (weight, status, region, zone) that have typed accessors.
#pragma once

#include <charconv>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

namespace registry {

/// Whether an instance wants traffic. From the metadata entry "status".
enum class InstanceStatus {
  Up,        ///< no entry, or any other text
  Disabled,  ///< "disabled": taken out by an operator
  Draining,  ///< "draining": finishes what it has, takes nothing new
};

/// One running copy of a service. A value: copy it freely; no member is shared.
struct ServiceInstance {
  std::string id;                               ///< unique in its service; not empty, no '/'
  std::string name;                             ///< the service
  std::string version;                          ///< may be empty
  std::map<std::string, std::string> metadata;  ///< well-known: weight, status, region, zone
  std::vector<std::string> endpoints;  ///< "grpc://host:port", "http://", "https://", "tcp://" or "host:port"

  /// Heavier weights than this count as this one, so that the weights of 65,537 instances add up in 32 bits.
  static constexpr std::uint32_t max_weight = 65'535;

  ServiceInstance() {}
  /// An instance of `service` with this id; nothing is checked before it is registered.
  ServiceInstance(std::string service, std::string instance_id)
      : id(std::move(instance_id)), name(std::move(service)) {}

  /// The share of traffic relative to the service's other instances, 0 to max_weight. 0 asks for none.
  /// 1 if there is no "weight" or it is not a whole number without a sign.
  std::uint32_t weight() const noexcept {
    const std::string_view text = entry("weight");
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (text.empty() || end != text.data() + text.size()) return 1;
    if (error == std::errc::result_out_of_range || value > max_weight) return max_weight;
    return error == std::errc{} ? static_cast<std::uint32_t>(value) : 1;
  }

  /// What the metadata entry "status" says.
  InstanceStatus status() const noexcept {
    const std::string_view text = entry("status");
    if (text == "disabled") return InstanceStatus::Disabled;
    if (text == "draining") return InstanceStatus::Draining;
    return InstanceStatus::Up;
  }

  /// The metadata entry "region", empty if there is none. The view lives as long as the entry.
  std::string_view region() const noexcept { return entry("region"); }
  /// The metadata entry "zone", empty if there is none. The view lives as long as the entry.
  std::string_view zone() const noexcept { return entry("zone"); }

  friend bool operator==(const ServiceInstance&, const ServiceInstance&) = default;

 private:
  // The well-known names fit the small-string buffer: looking one up allocates nothing.
  std::string_view entry(const char* key) const noexcept {
    const auto found = metadata.find(key);
    return found == metadata.end() ? std::string_view{} : std::string_view(found->second);
  }
};

}  // namespace registry
