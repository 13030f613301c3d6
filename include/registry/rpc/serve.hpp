// A gRPC server's life in one line: listen, register, wait for a signal, deregister, drain, stop.
#pragma once

#include <asio/awaitable.hpp>

#include "registry/async/generator.hpp"
#include "registry/facade/registry.hpp"
#include "registry/rpc/serve_change.hpp"
#include "registry/rpc/serve_config.hpp"

namespace grpc {
class ServerBuilder;
}

namespace registry {

/// Serves until a signal comes. In this order:
///
///  1. Adds `listen_address` to the builder and starts the server: it answers calls from now on.
///  2. Registers the instance, with the real port.
///  3. Waits for one of the signals (or for cancellation), and applies `changes` meanwhile: see ServeChange.
///  4. Deregisters it; its lease is revoked unless other instances share it. If the store cannot be reached it goes
///     away with its lease.
///  5. Waits `drain_delay` while new calls are still answered: clients hear of the deregistration and move on.
///  6. Refuses new calls and lets those under way end, until `drain_timeout`; then they are cancelled.
///  7. Stops the server and returns.
///
/// `changes` is taken from in step 3 only. No change, and no end of it, ends serving.
///
/// A second signal ends whatever it waits for, and cancels the calls; a third one kills the process, since the
/// signals are the system's again.
///
/// Errors: `invalid_argument` for a bad setting, or no address to publish; the system's code (address_in_use,
/// permission_denied, ...) when it cannot listen, and then nothing was registered; what register_instance throws, when
/// the store does not take the registration in its time, and then the server is stopped first.
///
/// Cancellation: counts as a signal; it deregisters and drains, and then throws `operation_aborted`; a second one ends
/// that at once. (Awaitable operators such as `serve(...) || other()` do that.)
///
/// The registry, the builder's services and the store must live until it returns. `registry` is not closed.
///
/// Thread safety: may be awaited on any executor, several at once with a builder each. Stopping a grpc::Server
/// blocks until its handlers have returned, and gRPC offers no other way, so step 6 uses a thread of its own,
/// the only one that the library starts itself (Asio has one for host names). If the execution context is destroyed meanwhile the calls are
/// cancelled and the handlers awaited there. A handler that ignores its cancellation holds the end up. The port
/// is not shared (GRPC_ARG_ALLOW_REUSEPORT is off).
asio::awaitable<void> serve(Registry& registry, grpc::ServerBuilder& builder, ServeConfig config,
                            Generator<ServeChange> changes = Generator<ServeChange>());

}  // namespace registry

#ifndef REGISTRY_COMPILED
#include "registry/rpc/serve_impl.hpp"
#endif
