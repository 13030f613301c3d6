// The definitions of registry.hpp.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry/async/on.hpp"
#include "registry/facade/registry.hpp"
#include "registry/facade/registry_core.hpp"
#include "registry/model/decl.hpp"

namespace registry {

REGISTRY_DECL Registry::Registry(Store& store, RegistryConfig config, Observer observer)
    : core_(std::make_shared<detail::RegistryCore>(store.backend(), std::move(config), std::move(observer))) {
}

REGISTRY_DECL Registry::~Registry() {
  if (core_) core_->home.post([core = core_] { core->cancel(); });
}

REGISTRY_DECL asio::awaitable<Registration> Registry::register_instance(ServiceInstance instance,
                                                                        std::chrono::seconds ttl) {
  return detail::RegistryCore::add(core_, std::move(instance), ttl);
}

REGISTRY_DECL asio::awaitable<void> Registry::update_instance(ServiceInstance instance,
                                                              std::chrono::seconds ttl) {
  return detail::RegistryCore::update(core_, std::move(instance), ttl);
}

REGISTRY_DECL asio::awaitable<void> Registry::deregister(std::string instance_id) {
  return detail::RegistryCore::remove(core_, std::move(instance_id));
}

REGISTRY_DECL asio::awaitable<std::vector<ServiceInstance>> Registry::get_service(std::string name,
                                                                                  ServiceFilter filter) {
  return detail::RegistryCore::get(core_, std::move(name), std::move(filter));
}

REGISTRY_DECL asio::awaitable<std::vector<std::string>> Registry::list_services() {
  return detail::Directory::list_services(core_->directory);
}

REGISTRY_DECL Generator<ServiceEvent> Registry::watch(std::string name, ServiceFilter filter) {
  validate_service_name(name);
  return detail::Directory::watch(core_->directory, std::move(name), std::move(filter));
}

REGISTRY_DECL asio::awaitable<ServiceView> Registry::subscribe(std::string name, ServiceFilter filter) {
  return detail::RegistryCore::subscribe_to(core_, std::move(name), std::move(filter));
}

REGISTRY_DECL Generator<RegistrationEvent> Registry::registration_events() {
  return detail::Registrar::events(core_->registrar);
}

REGISTRY_DECL asio::awaitable<void> Registry::close() {
  return detail::on(core_->home, detail::RegistryCore::close_here(core_));
}

REGISTRY_DECL detail::RegistryParts::RegistryParts(const Registry& of)
    : directory(of.core_->directory), observer(of.core_->observer), outside(of.core_->outside) {}

}  // namespace registry
