// The definitions of resolver.hpp.
#pragma once

#include <grpcpp/create_channel.h>
#include <unistd.h>

#include <asio/awaitable.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "registry/async/clock.hpp"
#include "registry/async/on.hpp"
#include "registry/facade/registry_core.hpp"
#include "registry/model/decl.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/validate.hpp"
#include "registry/rpc/ads_hub.hpp"
#include "registry/rpc/ads_server.hpp"
#include "registry/rpc/publisher.hpp"
#include "registry/rpc/resolver.hpp"
#include "registry/rpc/xds_names.hpp"

namespace registry {

class Resolver::Core {
 public:
  Core(detail::RegistryParts registry, ResolverConfig config)
      : rules_(std::make_shared<const detail::PublishingRules>(std::move(config))),
        publisher_(std::make_shared<detail::Publisher>(std::move(registry), rules_)),
        hub_(detail::AdsHub::get()),
        prefix_(detail::AdsHub::new_prefix()) {}

  static ResolverConfig checked(ResolverConfig config) {
    validate(config);
    if (config.client_id.empty()) config.client_id = std::to_string(detail::Random().id());
    return config;
  }

  void open() {
    publisher_->publish_to(hub_->table(), prefix_);
    const std::string& listen = rules_->config.listen;
    if (!listen.empty()) {
      auto describe = [rules = rules_](XdsType type, const std::string& name) {
        return rules->describe(type, std::string(), name);
      };
      auto asked = [weak = std::weak_ptr(publisher_)](const std::string& name) {
        if (const auto publisher = weak.lock()) publisher->asked(name);
      };
      auto refused = [weak = std::weak_ptr(publisher_)](const AdsNack& nack) {
        if (const auto publisher = weak.lock()) publisher->refused(nack);
      };
      auto table =
          std::make_shared<detail::AdsTable>(std::move(describe), std::move(asked), std::move(refused));
      outside_ =
          std::make_unique<detail::AdsServer>(listen.front() == ':' ? "127.0.0.1" + listen : listen, table);
      publisher_->publish_to(std::move(table), std::string());
    }
    hub_->routes().add(prefix_, {publisher_, rules_});
  }

  /// Ends it without waiting for coroutines. Any thread.
  void shut() {
    std::unique_ptr<detail::AdsServer> outside;
    std::shared_ptr<detail::AdsHub> hub;
    {
      const std::lock_guard lock(mutex_);
      if (!hub_) return;
      outside = std::move(outside_);
      hub = std::move(hub_);
    }
    hub->routes().remove(prefix_);
    publisher_->home.post([publisher = publisher_] { publisher->cancel(); });
  }

  std::string target(std::string_view name) const {
    return "xds:///" + prefix_ + detail::percent_encoded(service_of(name));
  }

  void add_arguments(grpc::ChannelArguments& arguments) const {
    const std::lock_guard lock(mutex_);
    if (hub_ && !hub_->shared()) arguments.SetString(detail::bootstrap_argument, hub_->bootstrap());
  }

  int port() const noexcept {
    const std::lock_guard lock(mutex_);
    return outside_ ? outside_->port() : 0;
  }

  std::shared_ptr<grpc::Channel> channel(const std::string& name,
                                         const std::shared_ptr<grpc::ChannelCredentials>& credentials,
                                         const std::optional<grpc::ChannelArguments>& own) {
    grpc::ChannelArguments arguments = own.value_or(grpc::ChannelArguments());
    add_arguments(arguments);
    if (own) return grpc::CreateCustomChannel(target(name), credentials, arguments);
    const std::lock_guard lock(mutex_);
    std::erase_if(channels_, [](const auto& each) { return each.second.expired(); });
    auto& known = channels_[{service_of(name), credentials}];
    auto channel = known.lock();
    if (!channel) known = channel = grpc::CreateCustomChannel(target(name), credentials, arguments);
    return channel;
  }

  void check(const ConnectionOptions& options) const {
    const std::size_t most = rules_->config.max_endpoints;
    if (options.at_least > most)
      detail::reject("at_least", std::to_string(options.at_least),
                     "use at most max_endpoints (" + std::to_string(most) + ")");
  }

  static std::string service_of(std::string_view name) {
    for (const std::string_view scheme : {"etcd:///", "etcd://"}) {
      if (name.starts_with(scheme)) {
        name.remove_prefix(scheme.size());
        break;
      }
    }
    validate_service_name(name);
    return std::string(name);
  }

  static asio::awaitable<std::shared_ptr<grpc::Channel>> connect(
      std::shared_ptr<Core> core, std::string name, std::shared_ptr<grpc::ChannelCredentials> credentials,
      ConnectionOptions options) {
    const std::string service = service_of(name);
    if (!credentials)
      detail::fail(errc::invalid_argument, "credentials = null: use grpc::InsecureChannelCredentials()");
    core->check(options);
    const auto publisher = core->publisher_;
    const auto deadline = std::chrono::steady_clock::now() + options.timeout;
    co_await detail::on(publisher->home,
                        detail::Publisher::ready(publisher, service, options.at_least, deadline));
    co_return core->channel(service, credentials, options.arguments);
  }

  static asio::awaitable<void> close(std::shared_ptr<Core> core) {
    core->shut();
    const auto publisher = core->publisher_;
    co_await detail::on(publisher->home, detail::Publisher::join(publisher));
  }

  /// Whether another process made it.
  bool forked() const noexcept { return ::getpid() != maker_; }

 private:
  using Key = std::pair<std::string, std::shared_ptr<grpc::ChannelCredentials>>;

  const pid_t maker_ = ::getpid();
  const std::shared_ptr<const detail::PublishingRules> rules_;
  const std::shared_ptr<detail::Publisher> publisher_;
  mutable std::mutex mutex_;
  std::shared_ptr<detail::AdsHub> hub_;  // until shut
  const std::string prefix_;
  std::unique_ptr<detail::AdsServer> outside_;
  std::map<Key, std::weak_ptr<grpc::Channel>> channels_;
};

REGISTRY_DECL Resolver::Resolver(Registry& registry, ResolverConfig config)
    : core_(std::make_shared<Core>(detail::RegistryParts(registry), Core::checked(std::move(config)))) {
  core_->open();
}

REGISTRY_DECL Resolver::~Resolver() {
  if (!core_) return;
  if (core_->forked()) {
    new CorePtr(std::move(core_));  // has no threads here, and its socket is in use
  } else {
    core_->shut();
  }
}

REGISTRY_DECL std::string Resolver::target(std::string_view name) const { return core_->target(name); }

REGISTRY_DECL grpc::ChannelArguments Resolver::channel_arguments() const {
  grpc::ChannelArguments arguments;
  core_->add_arguments(arguments);
  return arguments;
}

REGISTRY_DECL asio::awaitable<std::shared_ptr<grpc::Channel>> Resolver::get_connection(
    std::string name, std::shared_ptr<grpc::ChannelCredentials> credentials, ConnectionOptions options) {
  return Core::connect(core_, std::move(name), std::move(credentials), std::move(options));
}

REGISTRY_DECL int Resolver::port() const noexcept { return core_->port(); }

REGISTRY_DECL asio::awaitable<void> Resolver::close() { return Core::close(core_); }

}  // namespace registry
