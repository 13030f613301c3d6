// Lets gRPC channels follow services: publishes what a Registry sees to every stub of this process.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <asio/awaitable.hpp>
#include <chrono>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "registry/facade/registry.hpp"
#include "registry/rpc/resolver_config.hpp"

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
  explicit Resolver(Registry& registry, ResolverConfig config = ResolverConfig());
  ~Resolver();
  Resolver(Resolver&&) noexcept = default;
  /// Swaps: what this Resolver was lives on in `other`. One that was moved from may only be destroyed or
  /// assigned to.
  Resolver& operator=(Resolver&& other) noexcept {
    std::swap(core_, other.core_);
    return *this;
  }

  /// What to give to grpc::CreateChannel. Takes "name", "etcd://name" and "etcd:///name". Throws `invalid_argument`
  /// for a bad name.
  std::string target(std::string_view name) const;

  /// Needed beside target() when the application has an xDS bootstrap of its own; without effect otherwise, and after
  /// close().
  grpc::ChannelArguments channel_arguments() const;

  /// A channel that follows the service: the same one for the same name and credentials while somebody holds it. Returns when the
  /// service's list is loaded and `at_least` addresses can be used.
  /// Errors: `invalid_argument`, `closed`, `timed_out`, or what keeps the store from answering within the timeout.
  /// Cancellation: throws `operation_aborted`; nothing is left behind but a service that is followed for a while.
  asio::awaitable<std::shared_ptr<grpc::Channel>> get_connection(
      std::string name, std::shared_ptr<grpc::ChannelCredentials> credentials,
      ConnectionOptions options = ConnectionOptions());

  /// The port of the control plane on TCP; 0 when `listen` is empty, and after close().
  int port() const noexcept;

  /// Stops publishing and waits until all coroutines have ended. Channels go on with what they know. Idempotent.
  /// Throws no error of the store. Cancellation: throws `operation_aborted`; everything ends all the same.
  asio::awaitable<void> close();

 private:
  class Core;
  using CorePtr = std::shared_ptr<Core>;

  CorePtr core_;
};

}  // namespace registry

#ifndef REGISTRY_COMPILED
#include "registry/rpc/resolver_impl.hpp"
#endif
