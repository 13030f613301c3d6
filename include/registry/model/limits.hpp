// The bounds of what is stored and configured, in one place.
#pragma once

#include <chrono>
#include <cstddef>

namespace registry {

/// The largest stored value of an instance that is read or written, in bytes. (etcd takes requests up to 1.5
/// MiB.)
inline constexpr std::size_t max_value_size = 1024 * 1024;
/// How deep the JSON of a stored value may nest.
inline constexpr std::size_t max_value_depth = 32;
/// Bytes of an id, a service name, a version, a group, a namespace or a metadata key.
inline constexpr std::size_t max_name_size = 255;
/// Metadata entries of an instance; the values are bounded by max_value_size as a whole.
inline constexpr std::size_t max_metadata_entries = 1024;
/// Endpoints of an instance.
inline constexpr std::size_t max_endpoints = 256;
/// Bytes of one endpoint.
inline constexpr std::size_t max_endpoint_size = 512;
/// The longest TTL that etcd grants.
inline constexpr std::chrono::seconds max_ttl{9'000'000'000};
/// The longest timeout or interval that a configuration may ask for.
inline constexpr std::chrono::hours max_duration{24};

}  // namespace registry
