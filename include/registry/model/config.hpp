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
  /// 1 ms to 24 h.
  std::chrono::milliseconds retry_interval{1000}, max_retry_interval{30000};
  /// How long close() may take, also when the store is out of reach. Zero: do not wait for the store at all.
  /// At most 24 h.
  std::chrono::milliseconds close_timeout{3000};
  /// What register_instance does when another lease holds the key.
  ConflictPolicy on_conflict = ConflictPolicy::TakeOver;
  /// Watch our own keys: restore one that was deleted from outside, notice one that was taken over.
  bool guard_keys = true;
  /// Where the lists of followed services are kept for the next start: `<folder>/<service>.json`, written at most once a
  /// second. While the store cannot be reached at the start, views and watches begin with them; views say that they are
  /// stale. A folder of one namespace and of one process; it is made if it is missing. Empty: nothing is kept.
  std::string last_known_good_folder;
  /// While more than this share of a service's instances is missing, of those there were when that was last steady,
  /// views go on showing what vanished, for `disappearance_hold` at the longest: a cluster that lost its leases, or was
  /// restored empty, says the same as a service that went down. 0 to 1; 1: never. watch() and get_service() tell
  /// what the store says.
  double disappearance_limit = 1.0;
  /// How long views go on showing what vanished, at the longest; see `disappearance_limit`. While the store is out of
  /// reach nothing is given up. 1 ms to 24 h.
  std::chrono::milliseconds disappearance_hold{60000};

  RegistryConfig() {}
};

}  // namespace registry
