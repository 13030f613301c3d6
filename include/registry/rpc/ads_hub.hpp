// The control plane of this process: one server on a unix socket for the Resolvers of all Registries, because gRPC
// has one bootstrap for all channels. Each Resolver's names have a prefix of their own.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/model/immortal.hpp"
#include "registry/rpc/ads_server.hpp"
#include "registry/rpc/ads_table.hpp"
#include "registry/rpc/bootstrap.hpp"
#include "registry/rpc/publisher.hpp"

namespace registry::detail {

/// Which Resolver a name belongs to. Thread-safe.
class AdsRoutes {
 public:
  struct Route {
    std::weak_ptr<Publisher> publisher;
    std::shared_ptr<const PublishingRules> rules;
  };

  void add(const std::string& prefix, Route route) {
    const std::lock_guard lock(mutex_);
    routes_.emplace(prefix, std::move(route));
  }
  void remove(const std::string& prefix) {
    const std::lock_guard lock(mutex_);
    routes_.erase(prefix);
  }

  std::string describe(XdsType type, const std::string& name) const {
    const std::string prefix = prefix_of(name);
    const Route route = find(prefix);
    static const Immortal<PublishingRules> none{ResolverConfig()};
    return (route.rules ? *route.rules : *none).describe(type, prefix, name);
  }
  void asked(const std::string& name) const {
    const std::string prefix = prefix_of(name);
    if (const auto publisher = find(prefix).publisher.lock()) publisher->asked(name.substr(prefix.size()));
  }
  /// Listeners and Clusters are refused as a set: that is told to all.
  void refused(const AdsNack& nack) const {
    for (const auto& publisher : publishers(prefix_of(nack.name))) publisher->refused(nack);
  }

 private:
  static std::string prefix_of(std::string_view name) {
    const auto slash = name.find('/');
    return slash == std::string_view::npos ? std::string() : std::string(name.substr(0, slash + 1));
  }
  std::vector<std::shared_ptr<Publisher>> publishers(const std::string& prefix) const {
    const std::lock_guard lock(mutex_);
    std::vector<std::shared_ptr<Publisher>> found;
    for (const auto& [mine, route] : routes_) {
      auto publisher = prefix.empty() || prefix == mine ? route.publisher.lock() : nullptr;
      if (publisher) found.push_back(std::move(publisher));
    }
    return found;
  }
  Route find(const std::string& prefix) const {
    const std::lock_guard lock(mutex_);
    const auto found = routes_.find(prefix);
    return found != routes_.end() ? found->second : Route();
  }

  mutable std::mutex mutex_;
  std::map<std::string, Route> routes_;
};

/// Listens while a Resolver holds it.
class AdsHub {
 public:
  /// The hub of this process: the one there is, or a new one.
  static std::shared_ptr<AdsHub> get() {
    static std::mutex mutex;
    static Immortal<std::weak_ptr<AdsHub>> current;
    static pid_t owner = 0;
    const std::lock_guard lock(mutex);
    std::shared_ptr<AdsHub> hub = owner == ::getpid() ? (*current).lock() : nullptr;
    if (!hub) {
      hub = std::make_shared<AdsHub>();
      *current = hub;
      owner = ::getpid();
    }
    return hub;
  }

  AdsHub() {
    auto describe = [routes = routes_](XdsType type, const std::string& name) {
      return routes->describe(type, name);
    };
    auto asked = [routes = routes_](const std::string& name) { routes->asked(name); };
    auto refused = [routes = routes_](const AdsNack& nack) { routes->refused(nack); };
    table_ = std::make_shared<AdsTable>(std::move(describe), std::move(asked), std::move(refused));
    server_ = std::make_unique<AdsServer>(folder_.uri(), table_);
    static const bool shared = install_bootstrap(bootstrap());
    shared_ = shared;
  }

  const std::shared_ptr<AdsTable>& table() const noexcept { return table_; }
  AdsRoutes& routes() noexcept { return *routes_; }
  std::string bootstrap() const { return bootstrap_of(folder_.uri()); }
  /// Whether every channel of the process finds us; otherwise each needs our bootstrap.
  bool shared() const noexcept { return shared_; }

  /// A prefix that no other Resolver of this process has had.
  static std::string new_prefix() {
    static std::atomic<std::uint64_t> count{0};
    return "r" + std::to_string(++count) + "/";
  }

 private:
  const SocketFolder folder_;
  const std::shared_ptr<AdsRoutes> routes_ = std::make_shared<AdsRoutes>();
  std::shared_ptr<AdsTable> table_;
  std::unique_ptr<AdsServer> server_;
  bool shared_ = false;
};

}  // namespace registry::detail
