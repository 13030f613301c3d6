// Checks of what users hand in. Each throws std::system_error(errc::invalid_argument) that names the field,
// the value (bounded, control characters escaped) and what to write instead.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "registry/model/config.hpp"
#include "registry/model/encode.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/limits.hpp"
#include "registry/model/text.hpp"

namespace registry {

namespace detail {

[[noreturn]] inline void reject(std::string_view field, const std::string& value, std::string_view advice) {
  fail(errc::invalid_argument, std::string(field).append(" = ").append(value).append(": ").append(advice));
}

/// Text that is stored and shown: UTF-8 without control characters, at most `limit` bytes.
inline void check_text(std::string_view field, std::string_view text, std::size_t limit) {
  if (text.size() > limit) {
    reject(field, quote(text), "use at most " + std::to_string(limit) + " bytes");
  }
  if (!is_utf8(text)) reject(field, quote(text), "use valid UTF-8");
  if (has_control(text)) reject(field, quote(text), "leave control characters out");
}

/// One level of a key.
inline void check_level(std::string_view field, std::string_view text) {
  if (text.empty()) reject(field, quote(text), "must not be empty");
  check_text(field, text, max_name_size);
  if (text.find('/') != std::string_view::npos) reject(field, quote(text), "must not contain '/'");
}

inline void check_endpoint(std::string_view text) {
  constexpr std::string_view advice =
      "use grpc://host:port, http://host:port, https://host:port, tcp://host:port or host:port with a port "
      "from 1 to "
      "65535, and brackets around an IPv6 address";
  static constexpr std::array<std::string_view, 5> schemes = {"", "grpc", "http", "https", "tcp"};
  const auto endpoint = text.size() <= max_endpoint_size ? parse_endpoint(text) : std::nullopt;
  bool known = false;
  for (const auto scheme : schemes) known = known || (endpoint && endpoint->scheme == scheme);
  if (!known || text.find('?') != std::string_view::npos) reject("endpoint", quote(text), advice);
}

inline std::string shown(std::chrono::milliseconds value) { return std::to_string(value.count()) + " ms"; }

}  // namespace detail

/// Whether a service may have this name: not empty, at most 255 bytes of UTF-8 without control characters
/// or a '/'. Throws `invalid_argument`.
inline void validate_service_name(std::string_view name) { detail::check_level("name", name); }

/// The same for the id of an instance. Throws `invalid_argument`.
inline void validate_instance_id(std::string_view id) { detail::check_level("id", id); }

/// Whether an instance can be registered. Throws `invalid_argument` that names the field and the value.
inline void validate(const ServiceInstance& instance) {
  using namespace detail;
  validate_instance_id(instance.id);
  validate_service_name(instance.name);
  check_text("version", instance.version, max_name_size);
  if (instance.metadata.size() > max_metadata_entries) {
    reject("metadata", std::to_string(instance.metadata.size()) + " entries",
           "use at most " + std::to_string(max_metadata_entries));
  }
  for (const auto& [key, value] : instance.metadata) {
    if (key.empty()) reject("metadata key", quote(key), "must not be empty");
    check_text("metadata key", key, max_name_size);
    if (!is_utf8(value)) reject("metadata " + quote(key), quote(value), "use valid UTF-8");
  }
  if (instance.endpoints.empty())
    reject("endpoints", "(none)", "name at least one, such as grpc://10.0.0.5:9001");
  if (instance.endpoints.size() > max_endpoints) {
    reject("endpoints", std::to_string(instance.endpoints.size()) + " entries",
           "use at most " + std::to_string(max_endpoints));
  }
  for (const auto& endpoint : instance.endpoints) check_endpoint(endpoint);
  if (const std::size_t size = encode(instance).size(); size > max_value_size) {
    reject("instance", std::to_string(size) + " bytes as JSON",
           "use at most " + std::to_string(max_value_size) + "; shorten the metadata");
  }
}

/// Whether a TTL may be asked for: 0 (the default) to 9e9 s, which is etcd's bound. Throws `invalid_argument`.
inline void validate_ttl(std::chrono::seconds ttl) {
  if (ttl.count() < 0) {
    detail::reject("ttl", std::to_string(ttl.count()) + " s", "use 0 for the default, or a positive time");
  }
  if (ttl > max_ttl) {
    detail::reject("ttl", std::to_string(ttl.count()) + " s",
                   "use at most " + std::to_string(max_ttl.count()) + " s");
  }
}

/// Whether a Registry can be made with these settings. Throws `invalid_argument` that names the field and
/// the value.
inline void validate(const RegistryConfig& config) {
  using namespace detail;
  using std::chrono::milliseconds;
  const std::string_view space = config.name_space;
  if (space.size() < 2 || space.front() != '/') {
    reject("name_space", quote(space),
           "must begin with '/' and name at least one level, as /genesis/services");
  }
  if (space.back() == '/') reject("name_space", quote(space), "must not end with '/'");
  if (space.find("//") != std::string_view::npos)
    reject("name_space", quote(space), "leave empty levels out");
  check_text("name_space", space, max_name_size);
  if (!config.group.empty()) check_level("group", config.group);
  validate_ttl(config.default_ttl);
  if (config.default_ttl.count() == 0) reject("default_ttl", "0 s", "use at least 1 s");
  if (config.retry_interval < milliseconds(1) || config.retry_interval > max_duration) {
    reject("retry_interval", shown(config.retry_interval), "use 1 ms to 24 h");
  }
  if (config.max_retry_interval < config.retry_interval || config.max_retry_interval > max_duration) {
    reject("max_retry_interval", shown(config.max_retry_interval),
           "use at least retry_interval and at most 24 h");
  }
  if (!(config.disappearance_limit >= 0 && config.disappearance_limit <= 1)) {
    reject("disappearance_limit", std::to_string(config.disappearance_limit), "use a share from 0 to 1");
  }
  if (config.disappearance_hold < milliseconds(1) || config.disappearance_hold > max_duration) {
    reject("disappearance_hold", shown(config.disappearance_hold), "use 1 ms to 24 h");
  }
  if (config.close_timeout.count() < 0 || config.close_timeout > max_duration) {
    reject("close_timeout", shown(config.close_timeout), "use 0 ms to 24 h");
  }
}

}  // namespace registry
