// What a Registry is made of, for its own definitions and for what is built upon it.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry/async/home.hpp"
#include "registry/async/on.hpp"
#include "registry/async/signal.hpp"
#include "registry/discovery/directory.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/model/config.hpp"
#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/keys.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/registration/registrar.hpp"
#include "registry/store/store.hpp"

namespace registry {

class Registry;

namespace detail {

/// Lives on while one of its coroutines runs, also when the Registry object is gone.
struct RegistryCore {
  RegistryCore(std::shared_ptr<StoreBackend> store, RegistryConfig settings, Observer told)
      : config(checked(std::move(settings))),
        observer(std::move(told)),
        outside(store->get_executor()),
        home(Home::strand(store->get_executor())),
        directory(std::make_shared<Directory>(store, layout(), config, observer, home)),
        registrar(std::make_shared<Registrar>(store, layout(), config, observer, home)) {}

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
  const Home outside;  // the store's executor
  const Home home;
  const std::shared_ptr<Directory> directory;
  const std::shared_ptr<Registrar> registrar;
  bool closing = false;  // on the home, as what follows
  bool closed = false;
  std::vector<Signal> waiting_for_close;

  static asio::awaitable<Registration> add(std::shared_ptr<RegistryCore> core, ServiceInstance instance,
                                           std::chrono::seconds ttl) {
    validate(instance);
    validate_ttl(ttl);
    co_return co_await on(core->home, Registrar::add(core->registrar, std::move(instance), ttl));
  }

  static asio::awaitable<void> update(std::shared_ptr<RegistryCore> core, ServiceInstance instance,
                                      std::chrono::seconds ttl) {
    validate(instance);
    validate_ttl(ttl);
    co_await on(core->home, Registrar::update(core->registrar, std::move(instance), ttl));
  }

  static asio::awaitable<void> remove(std::shared_ptr<RegistryCore> core, std::string id) {
    co_await on(core->home, Registrar::remove(core->registrar, std::move(id)));
  }

  static asio::awaitable<std::vector<ServiceInstance>> get(std::shared_ptr<RegistryCore> core,
                                                           std::string name, ServiceFilter filter) {
    validate_service_name(name);
    co_return co_await Directory::get(core->directory, std::move(name), std::move(filter));
  }

  static asio::awaitable<ServiceView> subscribe_to(std::shared_ptr<RegistryCore> core, std::string name,
                                                   ServiceFilter filter) {
    validate_service_name(name);
    co_return co_await Directory::subscribe(core->directory, std::move(name), std::move(filter));
  }

  static asio::awaitable<void> close_here(std::shared_ptr<RegistryCore> core) {
    while (std::exchange(core->closing, true)) {
      if (core->closed) co_return;
      const Signal done;
      core->waiting_for_close.push_back(done);
      co_await done.wait();
    }
    const Closing closing(core);
    core->directory->cancel();
    co_await Registrar::close(core->registrar, core->config.close_timeout);
    co_await Directory::join(core->directory);
    core->closed = true;
  }

  /// Ends a close(), also one that was cancelled: the next caller then goes on with it.
  struct Closing {
    explicit Closing(std::shared_ptr<RegistryCore> registry) : core(std::move(registry)) {}
    ~Closing() {
      core->closing = core->closed;
      for (const auto& done : std::exchange(core->waiting_for_close, {})) done.raise();
    }
    std::shared_ptr<RegistryCore> core;
  };
};

/// The parts of a Registry for what is built upon it: they live on when the Registry object is gone.
struct RegistryParts {
  std::shared_ptr<Directory> directory;
  Observer observer;
  Home outside;  // the store's executor

  explicit RegistryParts(const Registry& of);
};

}  // namespace detail

}  // namespace registry
