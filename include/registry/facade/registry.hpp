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
#include "registry/async/home.hpp"
#include "registry/async/on.hpp"
#include "registry/discovery/directory.hpp"
#include "registry/model/config.hpp"
#include "registry/model/event.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/keys.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/registration/registrar.hpp"
#include "registry/store/store.hpp"

namespace registry {

namespace detail {
struct RegistryParts;
}

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
  explicit Registry(Store& store, RegistryConfig config = RegistryConfig(), Observer observer = Observer())
      : core_(std::make_shared<Core>(store.backend(), std::move(config), std::move(observer))) {}

  ~Registry() {
    if (core_) core_->home.post([core = core_] { core->cancel(); });
  }
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
  asio::awaitable<Registration> register_instance(ServiceInstance instance, std::chrono::seconds ttl = {}) {
    return add(core_, std::move(instance), ttl);
  }

  /// Stores a new version, metadata, status or endpoints of a registered instance, in one write. Its lease stays, unless
  /// `ttl` (zero: as it is) is another: then the same write moves the key to a lease of that TTL, and the old one is
  /// given up when this is confirmed, so the key is never absent in between. Errors: `invalid_argument` (also for
  /// another service under the same id), `not_registered`, `displaced`; what the store refuses changes nothing. When
  /// the store cannot be reached for 5 s, what went wrong: the change stays wanted and is stored later. After a
  /// cancellation it is stored in the background.
  asio::awaitable<void> update_instance(ServiceInstance instance, std::chrono::seconds ttl = {}) {
    return update(core_, std::move(instance), ttl);
  }

  /// Takes an instance away, unless its key belongs to another owner by now. Errors: `not_registered`; when
  /// the store cannot be reached for 5 s, what went wrong: the instance is given up all the same, and goes away
  /// with its lease at the latest. After a cancellation it is taken away in the background.
  asio::awaitable<void> deregister(std::string instance_id) { return remove(core_, std::move(instance_id)); }

  /// The instances of a service, read from the store now; ordered by id. Bad values are skipped, counted and
  /// logged. Errors: `invalid_argument` for a bad name, `closed`, or what keeps the store from answering.
  asio::awaitable<std::vector<ServiceInstance>> get_service(std::string name,
                                                            ServiceFilter filter = ServiceFilter()) {
    return get(core_, std::move(name), std::move(filter));
  }

  /// The names of all services that have an instance, sorted; read from the store now. Errors: as get_service.
  asio::awaitable<std::vector<std::string>> list_services() {
    return detail::Directory::list_services(core_->directory);
  }

  /// The events of a service: first a Put for each instance there, then every change, in order, once. Goes on
  /// through every failure of the store. A consumer that falls behind by more than a thousand events gets
  /// them folded, the newest for each instance, marked `resynced`. Throws `invalid_argument` for a bad name, and
  /// nothing later: `next()` waits while the store is out of reach, and ends empty after close(). Cancellation of
  /// `next()` loses nothing; destroying the generator ends the watch.
  Generator<ServiceEvent> watch(std::string name, ServiceFilter filter = ServiceFilter()) {
    validate_service_name(name);
    return detail::Directory::watch(core_->directory, std::move(name), std::move(filter));
  }

  /// A live local list of a service; returns when the first list is there. Errors: as get_service, after some 3 s
  /// of a store that cannot be reached. The service is followed until the last copy of the view is gone.
  asio::awaitable<ServiceView> subscribe(std::string name, ServiceFilter filter = ServiceFilter()) {
    return subscribe_to(core_, std::move(name), std::move(filter));
  }

  /// What becomes of our registrations: the current states first, then every change. Any number of consumers; one
  /// that falls behind by more than a thousand events gets the newest of each instance. Throws nothing, ends empty
  /// after close(). Cancellation of `next()` loses nothing.
  Generator<RegistrationEvent> registration_events() { return detail::Registrar::events(core_->registrar); }

  /// Takes all instances away, revokes their leases and ends every coroutine and generator; within
  /// `close_timeout`, also when the store cannot be reached: what could not be taken away then goes with its lease.
  /// Throws no error of the store. Idempotent: a second call returns when the first is done. Cancellation: throws
  /// `operation_aborted`, and everything ends all the same; keys that are still there go away with their leases.
  asio::awaitable<void> close() { return detail::on(core_->home, close_here(core_)); }

 private:
  struct Core {
    Core(std::shared_ptr<StoreBackend> store, RegistryConfig settings, Observer told)
        : config(checked(std::move(settings))),
          observer(std::move(told)),
          outside(store->get_executor()),
          home(detail::Home::strand(store->get_executor())),
          directory(std::make_shared<detail::Directory>(store, layout(), config, observer, home)),
          registrar(std::make_shared<detail::Registrar>(store, layout(), config, observer, home)) {}

    static RegistryConfig checked(RegistryConfig settings) {
      validate(settings);
      return settings;
    }
    KeyLayout layout() const { return KeyLayout(config.name_space, config.group); }

    void cancel() {
      directory->cancel();
      registrar->cancel();
    }

    const RegistryConfig config;
    const Observer observer;
    const detail::Home outside;  // the store's executor
    const detail::Home home;
    const std::shared_ptr<detail::Directory> directory;
    const std::shared_ptr<detail::Registrar> registrar;
    bool closing = false;  // on the home, as what follows
    bool closed = false;
    std::vector<detail::Signal> waiting_for_close;
  };
  using CorePtr = std::shared_ptr<Core>;

  static asio::awaitable<Registration> add(CorePtr core, ServiceInstance instance, std::chrono::seconds ttl) {
    validate(instance);
    validate_ttl(ttl);
    co_return co_await detail::on(core->home,
                                  detail::Registrar::add(core->registrar, std::move(instance), ttl));
  }

  static asio::awaitable<void> update(CorePtr core, ServiceInstance instance, std::chrono::seconds ttl) {
    validate(instance);
    validate_ttl(ttl);
    co_await detail::on(core->home, detail::Registrar::update(core->registrar, std::move(instance), ttl));
  }

  static asio::awaitable<void> remove(CorePtr core, std::string id) {
    co_await detail::on(core->home, detail::Registrar::remove(core->registrar, std::move(id)));
  }

  static asio::awaitable<std::vector<ServiceInstance>> get(CorePtr core, std::string name,
                                                           ServiceFilter filter) {
    validate_service_name(name);
    co_return co_await detail::Directory::get(core->directory, std::move(name), std::move(filter));
  }

  static asio::awaitable<ServiceView> subscribe_to(CorePtr core, std::string name, ServiceFilter filter) {
    validate_service_name(name);
    co_return co_await detail::Directory::subscribe(core->directory, std::move(name), std::move(filter));
  }

  static asio::awaitable<void> close_here(CorePtr core) {
    while (std::exchange(core->closing, true)) {
      if (core->closed) co_return;
      const detail::Signal done;
      core->waiting_for_close.push_back(done);
      co_await done.wait();
    }
    const Closing closing(core);
    core->directory->cancel();
    co_await detail::Registrar::close(core->registrar, core->config.close_timeout);
    co_await detail::Directory::join(core->directory);
    core->closed = true;
  }

  /// Ends a close(), also one that was cancelled: the next caller then goes on with it.
  struct Closing {
    explicit Closing(CorePtr registry) : core(std::move(registry)) {}
    ~Closing() {
      core->closing = core->closed;
      for (const auto& done : std::exchange(core->waiting_for_close, {})) done.raise();
    }
    CorePtr core;
  };

  friend struct detail::RegistryParts;

  CorePtr core_;
};

namespace detail {

/// The parts of a Registry for what is built upon it: they live on when the Registry object is gone.
struct RegistryParts {
  std::shared_ptr<Directory> directory;
  Observer observer;
  Home outside;  // the store's executor

  explicit RegistryParts(const Registry& of)
      : directory(of.core_->directory), observer(of.core_->observer), outside(of.core_->outside) {}
};

}  // namespace detail

}  // namespace registry
