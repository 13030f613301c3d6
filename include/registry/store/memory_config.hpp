// The settings of a MemoryStore.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>

#include "registry/model/kv.hpp"

namespace registry {

/// The settings of a MemoryStore. The defaults behave like an etcd server with default settings.
struct MemoryStoreConfig {
  /// Shorter TTLs are lengthened to this one. At least one second.
  std::chrono::seconds min_ttl{2};
  /// How many revisions are kept for watches and for lists of the past; older ones are compacted by
  /// themselves.
  std::size_t max_history = 10'000;
  /// What one commit may carry; bytes are those of its keys and values. As with etcd::Connector.
  Limits limits{127, 1024 * 1024};
  /// Where pairs and leases survive the process. Empty: nowhere. A missing file is a fresh store.
  std::string snapshot_file;
  /// Changes are written to the file this long after the first of them at the latest, while the executor
  /// runs.
  std::chrono::milliseconds snapshot_interval{1000};

  MemoryStoreConfig() {}
};

}  // namespace registry
