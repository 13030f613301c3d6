// Lets gRPC channels follow services: publishes what a Registry sees to every stub of this process.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <unistd.h>

#include <asio/awaitable.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "registry/async/clock.hpp"
#include "registry/async/on.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/validate.hpp"
#include "registry/rpc/ads_hub.hpp"
#include "registry/rpc/ads_server.hpp"
#include "registry/rpc/publisher.hpp"
#include "registry/rpc/resolver_config.hpp"
#include "registry/rpc/xds_names.hpp"

namespace registry {

/// Publishes the services of a Registry to gRPC, so that ordinary channels and stubs of every kind (blocking, callback,
/// completion queue) follow them with gRPC's own load balancing. A service is followed from a channel's first call on.
///
/// gRPC learns of us by its fallback bootstrap: no environment variable is set. When the application has an xDS bootstrap of its
/// own (GRPC_XDS_BOOTSTRAP or GRPC_XDS_BOOTSTRAP_CONFIG), that one stays in force, and a channel follows our services only if it is
/// created with `channel_arguments()`; `get_connection` does so by itself. Create the Resolver before the first xDS channel.
///
/// It listens on a unix socket in a folder that only this user can enter (in XDG_RUNTIME_DIR, TMPDIR or /tmp), removed with the
/// last Resolver of the process.
///
/// Lifetime: may outlive the Registry, which then publishes nothing more; channels may outlive both: they go on with
/// the endpoints they know. Destroying it closes it, without waiting for its coroutines; it stops a server and takes some
/// milliseconds. Thread safety: all members may be called from any thread; awaitables resume on the caller's executor.
/// The executor of the Registry's store must be running for changes to be published. A fork can only destroy it, which then
/// does nothing; Resolvers of the fork's own need a gRPC that the process had not begun to use.
class Resolver {
 public:
  /// Throws `invalid_argument` for a bad setting and for a `listen` address that cannot be used.
  explicit Resolver(Registry& registry, ResolverConfig config = ResolverConfig())
      : core_(std::make_shared<Core>(detail::RegistryParts(registry), checked(std::move(config)))) {
    core_->open();
  }
  ~Resolver() {
    if (!core_) return;
    if (core_->forked()) {
      new CorePtr(std::move(core_));  // has no threads here, and its socket is in use
    } else {
      core_->shut();
    }
  }
  Resolver(Resolver&&) noexcept = default;
  /// Swaps: what this Resolver was lives on in `other`. One that was moved from may only be destroyed or
  /// assigned to.
  Resolver& operator=(Resolver&& other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }

  /// What to give to grpc::CreateChannel. Takes "name", "etcd://name" and "etcd:///name". Throws `invalid_argument`
  /// for a bad name.
  std::string target(std::string_view name) const { return core_->target(name); }

  /// Needed beside target() when the application has an xDS bootstrap of its own; without effect otherwise, and after
  /// close().
  grpc::ChannelArguments channel_arguments() const {
    grpc::ChannelArguments arguments;
    core_->add_arguments(arguments);
    return arguments;
  }

  /// A channel that follows the service: the same one for the same name and credentials while somebody holds it. Returns when the
  /// service's list is loaded and `at_least` addresses can be used.
  /// Errors: `invalid_argument`, `closed`, `timed_out`, or what keeps the store from answering within the timeout.
  /// Cancellation: throws `operation_aborted`; nothing is left behind but a service that is followed for a while.
  asio::awaitable<std::shared_ptr<grpc::Channel>> get_connection(
      std::string name, std::shared_ptr<grpc::ChannelCredentials> credentials,
      ConnectionOptions options = ConnectionOptions()) {
    return connect(core_, std::move(name), std::move(credentials), std::move(options));
  }

  /// The port of the control plane on TCP; 0 when `listen` is empty, and after close().
  int port() const noexcept { return core_->port(); }

  /// Stops publishing and waits until all coroutines have ended. Channels go on with what they know. Idempotent.
  /// Throws no error of the store. Cancellation: throws `operation_aborted`; everything ends all the same.
  asio::awaitable<void> close() { return close_core(core_); }

 private:
  class Core {
   public:
    Core(detail::RegistryParts registry, ResolverConfig config)
        : rules_(std::make_shared<const detail::PublishingRules>(std::move(config))),
          publisher_(std::make_shared<detail::Publisher>(std::move(registry), rules_)),
          hub_(detail::AdsHub::get()),
          prefix_(detail::AdsHub::new_prefix()) {}

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

    /// Whether another process made it.
    bool forked() const noexcept { return ::getpid() != maker_; }

    const std::shared_ptr<detail::Publisher>& publisher() const noexcept { return publisher_; }

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
  using CorePtr = std::shared_ptr<Core>;

  static ResolverConfig checked(ResolverConfig config) {
    validate(config);
    if (config.client_id.empty()) config.client_id = std::to_string(detail::Random().id());
    return config;
  }

  static asio::awaitable<std::shared_ptr<grpc::Channel>> connect(
      CorePtr core, std::string name, std::shared_ptr<grpc::ChannelCredentials> credentials,
      ConnectionOptions options) {
    const std::string service = Core::service_of(name);
    if (!credentials)
      detail::fail(errc::invalid_argument, "credentials = null: use grpc::InsecureChannelCredentials()");
    core->check(options);
    const auto publisher = core->publisher();
    const auto deadline = std::chrono::steady_clock::now() + options.timeout;
    co_await detail::on(publisher->home,
                        detail::Publisher::ready(publisher, service, options.at_least, deadline));
    co_return core->channel(service, credentials, options.arguments);
  }

  static asio::awaitable<void> close_core(CorePtr core) {
    core->shut();
    const auto publisher = core->publisher();
    co_await detail::on(publisher->home, detail::Publisher::join(publisher));
  }

  CorePtr core_;
};

}  // namespace registry
