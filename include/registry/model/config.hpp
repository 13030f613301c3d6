// The settings of a Registry. Checked as a whole by validate() when the Registry is made.
#pragma once

#include <chrono>
#include <string>

namespace registry {

/// What an explicit register_instance does when another lease holds the key.
/// A key without a lease is never taken.
enum class ConflictPolicy {
  TakeOver,  ///< take it, once: the previous run of the same instance has not expired yet
  Fail,      ///< fail with errc::conflict
};

/// The settings of a Registry.
struct RegistryConfig {
  /// Where all keys live: `<name_space>/<service>/<id>`. Begins with '/', does not end with one.
  std::string name_space = "/genesis/services";
  /// Optional level between namespace and service: `<name_space>/<group>/<service>/<id>`. No '/'.
  std::string group;
  /// Used when register_instance names no TTL. At least one second; the store may grant more.
  std::chrono::seconds default_ttl{30};
  /// The first and the longest step of the backoff between tries.
  std::chrono::milliseconds retry_interval{1000}, max_retry_interval{30000};
  /// How long close() may take, also when the store is out of reach. Zero: do not wait for the store at all.
  std::chrono::milliseconds close_timeout{3000};
  ConflictPolicy on_conflict = ConflictPolicy::TakeOver;
  /// Watch our own keys: restore one that was deleted from outside, notice one that was taken over.
  bool guard_keys = true;

  RegistryConfig() {}
};

}  // namespace registry
