// Rendezvous hashing: each client ranks the instances in an order of its own, the same at any time and on any
// machine. An instance that comes or goes leaves the order of the others as it is.
#pragma once

#include <cmath>
#include <cstdint>
#include <string_view>

namespace registry {

namespace detail {

constexpr std::uint64_t mix_bits(std::uint64_t value) noexcept {  // the finalizer of splitmix64
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9u;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBu;
  return value ^ (value >> 31);
}

/// The same on every machine and in every build, unlike std::hash.
constexpr std::uint64_t hash_text(std::string_view text) noexcept {
  std::uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3u;
  return mix_bits(hash);
}

}  // namespace detail

/// One client's order of instances.
///
/// Thread safety: immutable; any number of threads may use one.
class Rendezvous {
 public:
  /// The order of the client with this name.
  explicit constexpr Rendezvous(std::string_view client) noexcept
      : client_(detail::mix_bits(detail::hash_text(client) + 0x9E3779B97F4A7C15u)) {}

  /// Lowest first; evenly distributed over clients.
  constexpr std::uint64_t rank(std::string_view instance) const noexcept {
    return detail::mix_bits(client_ ^ detail::hash_text(instance));
  }

  /// Lowest first; over many clients an instance comes first in proportion to its weight, which must not be
  /// 0.
  double rank(std::string_view instance, std::uint32_t weight) const noexcept {
    const double draw = (static_cast<double>(rank(instance) >> 11) + 0.5) * 0x1p-53;  // in (0, 1)
    return -std::log(draw) / weight;
  }

 private:
  std::uint64_t client_;
};

}  // namespace registry
