// A Store in this process: for tests of services, for programs without an etcd, and as the reference of what
// a Store does.
#pragma once

#include <asio/any_io_executor.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <system_error>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/model/limits.hpp"
#include "registry/store/memory_config.hpp"
#include "registry/store/store.hpp"

namespace registry {

namespace detail {
class MemoryBackend;
}

/// Throws `invalid_argument` that names the field.
inline void validate(const MemoryStoreConfig& config) {
  const auto reject = [](const std::string& what) { detail::fail(errc::invalid_argument, what); };
  if (config.min_ttl < std::chrono::seconds(1) || config.min_ttl > max_ttl) {
    reject("min_ttl = " + std::to_string(config.min_ttl.count()) + " s: use at least 1 s");
  }
  if (config.max_history == 0) reject("max_history = 0: use at least 1");
  if (config.limits.writes == 0 || config.limits.bytes == 0) {
    reject("limits = 0: a commit must be able to carry something");
  }
  if (config.snapshot_interval.count() < 0 || config.snapshot_interval > max_duration) {
    reject("snapshot_interval = " + std::to_string(config.snapshot_interval.count()) +
           " ms: use 0 ms to 24 h");
  }
}

/// Pairs, leases, revisions and watches under etcd's rules, in the memory of this process. Optionally they
/// survive it in a snapshot file; there, leases get their full TTL again at the start, as after a restart of
/// etcd.
///
/// Lives on `executor`: leases that run out are noticed while it runs. A context with unexpired leases has
/// work to do, so its run() does not return by itself. Thread safety: all members may be called from any
/// thread.
class MemoryStore final : public Store {
 public:
  /// Throws `invalid_argument`, and `bad_snapshot` for a file that cannot be used: it names the file and what
  /// is wrong in it, and leaves the file as it is.
  explicit MemoryStore(asio::any_io_executor executor, MemoryStoreConfig config = {})
      : MemoryStore(open(executor, std::move(config))) {}

  /// Writes the snapshot file now, on this thread, whatever `snapshot_interval` says; without a file it does
  /// nothing. Call it before a planned end: destroying the store writes nothing. Throws std::system_error
  /// with the system's code.
  void save();

  /// Why the last writing of the snapshot file failed; no error if it did not. Writing is tried again.
  std::error_code save_error() const;

  // For tests of your own services: what others, time and the network do to a store. These work while the
  // store is unavailable, too.

  /// Someone else writes a key, whatever is there. Returns the revision. Throws `lease_lost` for an unknown
  /// lease.
  std::int64_t put(const std::string& key, const std::string& value, std::int64_t lease = 0);

  /// Someone else deletes a key. False: it was not there.
  bool erase(const std::string& key);

  /// A lease runs out now: its keys are deleted. False: it is gone already.
  bool expire(std::int64_t lease);

  /// Forgets the history before `revision`. Throws `compacted` if that has been done, `future_revision` if it
  /// is not reached.
  void compact(std::int64_t revision);

  /// Every watch ends with `unavailable`; new ones work.
  void disconnect();

  /// Every call fails with `unavailable` and every watch ends with it, until switched off again. Leases run
  /// on.
  void set_unavailable(bool unavailable);

 private:
  explicit MemoryStore(std::shared_ptr<detail::MemoryBackend> memory);

  static std::shared_ptr<detail::MemoryBackend> open(const asio::any_io_executor& executor,
                                                     MemoryStoreConfig config);

  std::shared_ptr<detail::MemoryBackend> memory_;
};

}  // namespace registry

#ifndef REGISTRY_COMPILED
#include "registry/store/memory_store_impl.hpp"
#endif
