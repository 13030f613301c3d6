// The front door: register instances in a store, and follow the services in it.
#pragma once

#include <asio/awaitable.hpp>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry/async/generator.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/model/config.hpp"
#include "registry/model/event.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/store/store.hpp"

namespace registry {

namespace detail {
struct RegistryCore;
struct RegistryParts;
}  // namespace detail

/// Registers instances and follows services in a Store.
///
/// It borrows the store's backend and runs on its executor; it starts no thread. While it watches or keeps
/// something the context has work: `io_context::run` returns after `close`. Instances stay registered,
/// renewed and guarded, until `deregister`, `close`, or the end of the Registry. Destroying it only cancels:
/// the keys then go away with their leases, within the TTL. `co_await close()` takes them away at once.
///
/// Thread safety: every member may be called from any thread; awaitables resume on the caller's executor. The Registry,
/// the store and the execution context may be destroyed in any order.
///
/// Errors: std::system_error with registry::errc. Invalid arguments name the field and the value. `is_retryable` and
/// `is_indeterminate` say what a caller may conclude. After close(), and after the end of the store: `closed`.
///
/// Cancellation: every awaitable can be cancelled and then throws `operation_aborted`.
class Registry {
 public:
  /// Throws `invalid_argument` for a bad setting.
  explicit Registry(Store& store, RegistryConfig config = RegistryConfig(), Observer observer = Observer());

  ~Registry();
  Registry(Registry&&) noexcept = default;
  /// Swaps: what this Registry was lives on in `other`. One that was moved from may only be destroyed or
  /// assigned to.
  Registry& operator=(Registry&& other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }

  /// Registers an instance under a lease and keeps it registered: renewed, restored when it was lost, for as
  /// long as the Registry lives. Returns when the key is stored. A `ttl` of zero means `default_ttl`; the
  /// store may grant more. Errors: `invalid_argument`; `already_registered` (ids are unique in a Registry);
  /// `conflict` or `unleased_key` when another owner holds the key (see RegistryConfig::on_conflict); what
  /// went wrong last when the store cannot be reached for 5 s. After an error or a cancellation the instance is not
  /// registered: a write that is still under way is taken back.
  asio::awaitable<Registration> register_instance(ServiceInstance instance, std::chrono::seconds ttl = {});

  /// Stores a new version, metadata, status or endpoints of a registered instance, in one write. Its lease stays, unless
  /// `ttl` (zero: as it is) is another: then the same write moves the key to a lease of that TTL, and the old one is
  /// given up when this is confirmed, so the key is never absent in between. Errors: `invalid_argument` (also for
  /// another service under the same id), `not_registered`, `displaced`; what the store refuses changes nothing. When
  /// the store cannot be reached for 5 s, what went wrong: the change stays wanted and is stored later. After a
  /// cancellation it is stored in the background.
  asio::awaitable<void> update_instance(ServiceInstance instance, std::chrono::seconds ttl = {});

  /// Takes an instance away, unless its key belongs to another owner by now. Errors: `not_registered`; when
  /// the store cannot be reached for 5 s, what went wrong: the instance is given up all the same, and goes away
  /// with its lease at the latest. After a cancellation it is taken away in the background.
  asio::awaitable<void> deregister(std::string instance_id);

  /// The instances of a service, read from the store now; ordered by id. Bad values are skipped, counted and
  /// logged. Errors: `invalid_argument` for a bad name, `closed`, or what keeps the store from answering.
  asio::awaitable<std::vector<ServiceInstance>> get_service(std::string name,
                                                            ServiceFilter filter = ServiceFilter());

  /// The names of all services that have an instance, sorted; read from the store now. Errors: as get_service.
  asio::awaitable<std::vector<std::string>> list_services();

  /// The events of a service: first a Put for each instance there, then every change, in order, once. Goes on
  /// through every failure of the store. A consumer that falls behind by more than a thousand events gets
  /// them folded, the newest for each instance, marked `resynced`. Throws `invalid_argument` for a bad name, and
  /// nothing later: `next()` waits while the store is out of reach, and ends empty after close(). Cancellation of
  /// `next()` loses nothing; destroying the generator ends the watch.
  Generator<ServiceEvent> watch(std::string name, ServiceFilter filter = ServiceFilter());

  /// A live local list of a service; returns when the first list is there. Errors: as get_service, after some 3 s
  /// of a store that cannot be reached. The service is followed until the last copy of the view is gone.
  asio::awaitable<ServiceView> subscribe(std::string name, ServiceFilter filter = ServiceFilter());

  /// What becomes of our registrations: the current states first, then every change. Any number of consumers; one
  /// that falls behind by more than a thousand events gets the newest of each instance. Throws nothing, ends empty
  /// after close(). Cancellation of `next()` loses nothing.
  Generator<RegistrationEvent> registration_events();

  /// Takes all instances away, revokes their leases and ends every coroutine and generator; within
  /// `close_timeout`, also when the store cannot be reached: what could not be taken away then goes with its lease.
  /// Throws no error of the store. Idempotent: a second call returns when the first is done. Cancellation: throws
  /// `operation_aborted`, and everything ends all the same; keys that are still there go away with their leases.
  asio::awaitable<void> close();

 private:
  friend struct detail::RegistryParts;

  std::shared_ptr<detail::RegistryCore> core_;
};

}  // namespace registry

#ifndef REGISTRY_COMPILED
#include "registry/facade/registry_impl.hpp"
#endif
