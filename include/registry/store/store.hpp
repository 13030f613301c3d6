// The waist of the library: what a backend must do so that services can be registered and followed in it.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "registry/async/generator.hpp"
#include "registry/model/kv.hpp"

namespace registry {

/// A key-value store with revisions, leases and resumable watches. Implemented by etcd::Connector's and
/// MemoryStore's backends; yours passes the same conformance suite (tests/rig/store_conformance.hpp).
///
/// Thread safety: every call may come from any thread and any executor; awaitables resume on the caller's executor.
///
/// Lifetime: awaitables and generators own what they need; the backend may be released while they are in flight.
///
/// Cancellation: every awaitable may be cancelled and then throws `operation_aborted`; a cancelled write may have been
/// applied.
///
/// Errors: `std::system_error` with `registry::errc`.
class StoreBackend {
 public:
  virtual ~StoreBackend() = default;

  /// Where the backend lives.
  virtual asio::any_io_executor get_executor() const noexcept = 0;

  /// What one commit may carry at most.
  virtual Limits limits() const noexcept = 0;

  /// Reads a page of pairs, ordered by key, at one revision. Throws `compacted` or `future_revision` when the
  /// revision asked for is not there (any more, yet).
  /// `invalid_argument` for an empty key.
  virtual asio::awaitable<Page> list(ListQuery query) = 0;

  /// Applies the writes at one revision, each judged on its own guard. No key twice. If it throws nothing was
  /// applied, unless `is_indeterminate(code)`: then all of it may have been, or may yet be. Throws
  /// `lease_lost` when a lease that an applied write would use is gone: nothing was applied. Deleting an
  /// absent key is refused with `found` empty.
  /// Throws `too_large` for more than limits(), and `invalid_argument` for an empty or a repeated key.
  virtual asio::awaitable<Committed> commit(std::vector<Write> writes) = 0;

  /// Grants a lease under an id of the caller's choice, which makes a retry safe: an existing lease of that
  /// id is `lease_exists`. 0 lets the store choose one: then a retry may leave a second lease behind, which runs
  /// out. The granted TTL, in seconds, may be longer. Throws `invalid_argument` for a TTL beyond max_ttl.
  virtual asio::awaitable<Lease> grant(std::int64_t id, std::chrono::seconds ttl) = 0;

  /// Renews a lease; the granted TTL from now on. Zero means that the lease is gone, and nothing else does:
  /// every other failure throws, after `timeout` at the latest.
  virtual asio::awaitable<std::chrono::seconds> renew(std::int64_t id, std::chrono::milliseconds timeout) = 0;

  /// Ends a lease and deletes the keys attached to it, at one revision. Throws `lease_lost` for an unknown
  /// one.
  virtual asio::awaitable<void> revoke(std::int64_t id) = 0;

  /// The changes of a range from a revision on (never 0), in whole revisions. The first batch comes at once,
  /// usually without changes: its `head` and `store_id` tell who answers. Ends by exception: `compacted`, `closed`,
  /// or what broke it; resume at the last `through` + 1. Throws `invalid_argument` for `from` = 0. Cancellation:
  /// destroying the generator ends the watch.
  virtual Generator<Batch> watch(KeyRange range, std::int64_t from) = 0;

  /// Ends everything in flight and refuses what comes after with `closed`. Any thread; waits for nothing.
  virtual void cancel() noexcept = 0;
};

/// A store an application owns: base of etcd::Connector and MemoryStore. Whoever borrows it (a Registry)
/// shares the backend; destroying the store cancels it.
///
/// Thread safety: any thread may call its members, and destroy it when no other one uses it any more.
class Store {
 public:
  virtual ~Store() {
    if (backend_) backend_->cancel();
  }
  Store(const Store&) = delete;
  Store& operator=(const Store&) = delete;

  /// What a Registry borrows; never null.
  const std::shared_ptr<StoreBackend>& backend() const noexcept { return backend_; }

 protected:
  /// For a store of your own: derive from Store and hand your backend, not null, to this.
  explicit Store(std::shared_ptr<StoreBackend> backend) : backend_(std::move(backend)) {}

 private:
  std::shared_ptr<StoreBackend> backend_;
};

}  // namespace registry
