// Registers instances in a store and keeps them there: what the registration half of a Registry does.
#pragma once

#include <asio/awaitable.hpp>
#include <algorithm>
#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/generator.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/model/config.hpp"
#include "registry/model/encode.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/keys.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/registration/event_hub.hpp"
#include "registry/registration/keeper.hpp"
#include "registry/registration/key_guard.hpp"
#include "registry/registration/lease_pool.hpp"
#include "registry/store/committer.hpp"
#include "registry/store/store.hpp"

namespace registry::detail {

/// A core. Its coroutines run on the strand `home`: hop there with on(); events() may be called from any
/// thread.
class Registrar {
 public:
  /// How long add(), update() and remove() wait for a store that cannot be reached.
  static constexpr std::chrono::seconds patience{5};

  Registrar(std::shared_ptr<StoreBackend> backend, KeyLayout layout, RegistryConfig config, Observer observer,
            Home home)
      : layout_(std::move(layout)), observer_(std::move(observer)), home_(home), scope_(home) {
    tools_ = std::make_shared<KeeperTools>();
    tools_->leases = std::make_shared<LeasePool>(backend, home, observer_);
    tools_->committer = std::make_shared<Committer>(backend, home);
    tools_->guard = std::make_shared<KeyGuard>(backend, layout_, config, observer_, home);
    tools_->events = std::make_shared<EventHub>(home, observer_);
    tools_->config = std::move(config);
  }

  /// Registers an instance and keeps it from then on. Throws `invalid_argument`, `already_registered`,
  /// `conflict`, `unleased_key`, `closed`, or what kept the store from taking it: at once if trying again is
  /// of no use, else when patience ends. After a failure or a cancellation the id is free again, and a write
  /// that may have been applied is cleaned up in the background.
  static asio::awaitable<Registration> add(std::shared_ptr<Registrar> self, ServiceInstance instance,
                                           std::chrono::seconds ttl) {
    validate(instance);
    validate_ttl(ttl);
    if (self->closed_) fail(errc::closed);
    if (ttl.count() == 0) ttl = self->tools_->config.default_ttl;
    const std::string id = instance.id;
    const auto known = self->ids_.find(id);
    // Wanted no more but still known: displaced.
    if (known != self->ids_.end() && known->second->wanted())
      fail(errc::already_registered, "id = " + quote(id));
    const auto keeper = self->keeper_of(instance);
    self->ids_.insert_or_assign(id, keeper);
    Attempt attempt(self, keeper, keeper->desire(encode(instance), ttl));
    if (keeper->begin()) self->scope_.spawn(keep(self, keeper));
    const auto which = attempt.number();
    const auto settled = [keeper, which] { return keeper->stored(which) || keeper->failed(which); };
    co_await Keeper::until(keeper, deadline(), settled);
    if (!keeper->stored(which) || keeper->failed(which)) throw_reason(*keeper);
    attempt.succeeded();
    co_return keeper->receipt();
  }

  /// Replaces what is published of an instance: under the same lease if the TTL stays (zero: it does), else the same
  /// write moves the key to a lease of the other TTL. Throws `not_registered`, `displaced`, `invalid_argument`,
  /// `closed`, or why it could not be stored. If the store cannot be reached what is new stays wanted and is stored
  /// later; if the store refuses it, all stays as it was.
  static asio::awaitable<void> update(std::shared_ptr<Registrar> self, ServiceInstance instance,
                                      std::chrono::seconds ttl) {
    validate(instance);
    validate_ttl(ttl);
    if (self->closed_) fail(errc::closed);
    const auto keeper = self->find(instance.id);
    if (keeper->service() != instance.name) {
      fail(errc::invalid_argument, "name = " + quote(instance.name) + ": " + quote(instance.id) +
                                       " is registered as an instance of " + quote(keeper->service()));
    }
    if (!keeper->wanted()) fail(errc::displaced, "id = " + quote(instance.id));
    const auto which = keeper->desire(encode(instance), ttl.count() == 0 ? keeper->ttl() : ttl);
    const auto settled = [keeper, which] {
      return keeper->stored(which) || keeper->failed(which) || !keeper->wanted();
    };
    co_await Keeper::until(keeper, deadline(), settled);
    if (keeper->stored(which)) co_return;
    if (!keeper->wanted() && !keeper->failure()) fail(errc::not_registered, "id = " + quote(instance.id));
    throw_reason(*keeper);
  }

  /// Deletes the key if it is ours, and gives the lease up. Returns when the store has confirmed it. If the
  /// store cannot be reached it throws why when patience ends; the deleting goes on in the background and the
  /// lease is given up. Throws `not_registered`.
  static asio::awaitable<void> remove(std::shared_ptr<Registrar> self, std::string id) {
    if (self->closed_) fail(errc::closed);
    const auto keeper = self->find(id);
    self->ids_.erase(id);
    keeper->remove();
    self->tools_->events->emit(RegistrationState::Closed, id);
    const auto settled = [keeper] { return keeper->removed() || keeper->wanted() || keeper->stopped(); };
    co_await Keeper::until(keeper, deadline(), settled);
    if (keeper->removed() || keeper->wanted()) co_return;
    keeper->release_leases();
    throw_reason(*keeper);
  }

  /// What becomes of the instances: the current states first. Any number of consumers; ends with close().
  static Generator<RegistrationEvent> events(const std::shared_ptr<Registrar>& self) {
    return self->tools_->events->subscribe();
  }

  /// Revokes all leases, which deletes exactly our keys, and ends every coroutine. Returns within `timeout`,
  /// also when the store cannot be reached. Further calls wait for the first.
  static asio::awaitable<void> close(std::shared_ptr<Registrar> self, std::chrono::milliseconds timeout) {
    const auto end = std::chrono::steady_clock::now() + timeout;
    if (std::exchange(self->closed_, true)) {
      while (!self->ended_) {
        const Signal ended;
        self->closers_.push_back(ended);
        co_await ended.wait();
      }
      co_return;
    }
    const Closing closing(self);
    self->stop();
    // A write under way cannot come after the revocation: its lease is gone by then.
    co_await LeasePool::revoke_all(self->tools_->leases, end - timeout / 10);
    self->tools_->leases->cancel();
    const Signal joined;
    self->home_.spawn(join(self), [joined](std::exception_ptr) { joined.raise(); });
    co_await joined.wait_until(
        std::max(end, std::chrono::steady_clock::now() + std::chrono::milliseconds(20)));
  }

  /// On the strand: ends everything without the store. The leases run out.
  void cancel() {
    closed_ = true;
    stop();
    tools_->leases->cancel();
    ended_ = true;
    for (const Signal& closer : std::exchange(closers_, {})) closer.raise();
  }

 private:
  // However close() ends, everything has ended then.
  class Closing {
   public:
    explicit Closing(std::shared_ptr<Registrar> registrar) : registrar_(std::move(registrar)) {}
    Closing(const Closing&) = delete;
    Closing& operator=(const Closing&) = delete;
    ~Closing() { registrar_->cancel(); }

   private:
    const std::shared_ptr<Registrar> registrar_;
  };

  // add() under way: unless it succeeds its instance is not wanted any more, also when it is cancelled.
  class Attempt {
   public:
    Attempt(std::shared_ptr<Registrar> registrar, std::shared_ptr<Keeper> keeper, std::uint64_t number)
        : registrar_(std::move(registrar)), keeper_(std::move(keeper)), number_(number) {}
    Attempt(const Attempt&) = delete;
    Attempt& operator=(const Attempt&) = delete;
    ~Attempt() {
      registrar_->observer_.count(succeeded_ ? metric::registrations : metric::registration_failures,
                                  keeper_->service());
      if (succeeded_) return;
      const auto known = registrar_->ids_.find(keeper_->id());
      if (known == registrar_->ids_.end() || known->second != keeper_ || keeper_->attempt() != number_)
        return;
      registrar_->ids_.erase(known);
      keeper_->remove();
      keeper_->release_leases();
    }
    std::uint64_t number() const { return number_; }
    void succeeded() { succeeded_ = true; }

   private:
    const std::shared_ptr<Registrar> registrar_;
    const std::shared_ptr<Keeper> keeper_;
    const std::uint64_t number_;
    bool succeeded_ = false;
  };

  static std::chrono::steady_clock::time_point deadline() {
    return std::chrono::steady_clock::now() + patience;
  }

  [[noreturn]] static void throw_reason(const Keeper& keeper) {
    Problem error = keeper.failure() ? keeper.failure() : keeper.last_error();
    if (!error) error = errc::timed_out;
    error.raise("id = " + quote(keeper.id()));
  }

  std::shared_ptr<Keeper> find(const std::string& id) const {
    const auto found = ids_.find(id);
    if (found == ids_.end()) fail(errc::not_registered, "id = " + quote(id));
    return found->second;
  }

  // One keeper for each key: it knows which writes to the key are in doubt, also after the instance was
  // removed.
  std::shared_ptr<Keeper> keeper_of(const ServiceInstance& instance) {
    const std::string key = layout_.key_of(instance.name, instance.id);
    auto& keeper = keepers_[key];
    if (!keeper) keeper = std::make_shared<Keeper>(tools_, instance.name, instance.id, key);
    return keeper;
  }

  static asio::awaitable<void> keep(std::shared_ptr<Registrar> self, std::shared_ptr<Keeper> keeper) {
    co_await Keeper::run(keeper);
    if (!keeper->running()) self->keepers_.erase(keeper->key());
  }

  // Nothing is claimed any more and no caller waits.
  void stop() {
    for (const auto& [key, keeper] : std::exchange(keepers_, {})) keeper->stop(make_error_code(errc::closed));
    for (const auto& [id, keeper] : std::exchange(ids_, {}))
      tools_->events->emit(RegistrationState::Closed, id);
    scope_.cancel();
    tools_->committer->cancel();
    tools_->guard->cancel();
    tools_->events->close();
  }

  static asio::awaitable<void> join(std::shared_ptr<Registrar> self) {
    co_await self->scope_.join();
    co_await Committer::join(self->tools_->committer);
    co_await KeyGuard::join(self->tools_->guard);
    co_await LeasePool::join(self->tools_->leases);
  }

  const KeyLayout layout_;
  const Observer observer_;
  const Home home_;
  std::shared_ptr<KeeperTools> tools_;
  std::map<std::string, std::shared_ptr<Keeper>> ids_;      // registered, or displaced
  std::map<std::string, std::shared_ptr<Keeper>> keepers_;  // by key; also those that clean up
  TaskScope scope_;
  bool closed_ = false, ended_ = false;
  std::vector<Signal> closers_;
};

}  // namespace registry::detail
