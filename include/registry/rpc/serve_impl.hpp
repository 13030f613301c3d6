// The definitions of serve.hpp.
#pragma once

#include <grpc/grpc.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/ip/address.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/ip/udp.hpp>
#include <asio/redirect_error.hpp>
#include <asio/signal_set.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "registry/async/aborted.hpp"
#include "registry/async/generator.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/async/sleep.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/decl.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/text.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/advertise.hpp"
#include "registry/rpc/live_instance.hpp"
#include "registry/rpc/serve.hpp"
#include "registry/rpc/serve_change.hpp"
#include "registry/rpc/serve_config.hpp"

namespace registry {

namespace detail {

/// This machine's address on the way to `target` ("host:port" with any scheme); empty if there is no way. A UDP
/// socket that is connected asks the routing table and sends nothing.
inline asio::awaitable<std::string> route_source(std::string target) {
  namespace ip = asio::ip;
  const auto endpoint = parse_endpoint(target.empty() ? "192.0.2.1:9" : target);
  if (!endpoint) reject("route_to", quote(target), "use host:port, as for the store's endpoints");
  const auto executor = co_await asio::this_coro::executor;
  std::vector<ip::udp::endpoint> ends;
  std::error_code error;
  const ip::address literal = ip::make_address(endpoint->host, error);
  if (!error) {
    ends.emplace_back(literal, endpoint->port);
  } else {
    ip::udp::resolver resolver(executor);
    const std::string port = std::to_string(endpoint->port);
    error.clear();
    const auto found = co_await resolver.async_resolve(endpoint->host, port,
                                                       asio::redirect_error(asio::use_awaitable, error));
    for (const auto& each : found) ends.push_back(each.endpoint());
  }
  for (const auto& end : ends) {
    ip::udp::socket socket(executor);
    socket.open(end.protocol(), error);
    if (!error) socket.connect(end, error);
    const auto local = error ? ip::udp::endpoint() : socket.local_endpoint(error);
    if (!error && !local.address().is_unspecified()) co_return local.address().to_string();
  }
  co_return std::string();
}

/// Why nobody can listen there, as far as the system tells.
inline std::error_code listen_error(const asio::any_io_executor& executor, const ListenAddress& listen) {
  namespace ip = asio::ip;
  std::error_code error;
  const bool any = is_wildcard(listen.host);
  const ip::address address = any ? ip::address(ip::address_v6::any()) : ip::make_address(listen.host, error);
  if (error) return std::make_error_code(std::errc::address_not_available);
  ip::tcp::acceptor acceptor(executor);
  const ip::tcp::endpoint end(address, listen.port);
  acceptor.open(end.protocol(), error);
  if (!error) acceptor.bind(end, error);
  if (!error) acceptor.listen(1, error);
  if (!error) return std::make_error_code(std::errc::address_not_available);
  return std::error_code(error.value(), std::system_category());
}

/// One run of serve(). Lives on a strand; its coroutine is never cancelled, but asked to stop, by any thread.
struct Serving {
  explicit Serving(ServeConfig settings) : config(std::move(settings)) {}
  ~Serving() { abort_and_join(); }
  Serving(const Serving&) = delete;
  Serving& operator=(const Serving&) = delete;

  /// The first time: an orderly end. From the second on: at once.
  void request_stop() noexcept {
    ++stops;
    changed.raise();
  }

  /// Gives up what is left of the server; waits for handlers that still run.
  void abort_and_join() noexcept {
    if (server && !helper.joinable()) {
      server->Shutdown(std::chrono::system_clock::now());
      server.reset();
    }
    if (helper.joinable()) {
      cancel_calls();
      helper.join();
    }
  }

  /// Only while the helper shuts the server down. grpc::Server has no second, earlier deadline.
  void cancel_calls() noexcept { grpc_server_cancel_all_calls(server->c_server()); }

  const ServeConfig config;
  std::atomic<int> stops{0};
  Signal changed;  // a request to stop, or the end of a step
  Signal over;     // the whole run
  std::exception_ptr error;
  std::unique_ptr<grpc::Server> server;
  std::thread helper;
};
using ServingPtr = std::shared_ptr<Serving>;

/// Runs a step until it ends, or until there are `limit` requests to stop: then it is cancelled. Returns what it
/// failed with. On the strand.
template <class T>
asio::awaitable<std::exception_ptr> until_stopped(ServingPtr self, int limit, asio::awaitable<T> work,
                                                  T* result) {
  struct Step {
    asio::cancellation_signal cancel;
    std::exception_ptr error;
    bool done = false;
    T value{};
  };
  const auto step = std::make_shared<Step>();
  auto end = [self, step](std::exception_ptr error, T value) {
    step->error = std::move(error);
    step->value = std::move(value);
    step->done = true;
    self->changed.raise();
  };
  asio::co_spawn(co_await asio::this_coro::executor, std::move(work),
                 asio::bind_cancellation_slot(step->cancel.slot(), std::move(end)));
  bool cancelled = false;
  while (!step->done) {
    if (self->stops >= limit && !std::exchange(cancelled, true)) {
      step->cancel.emit(asio::cancellation_type::terminal);
    }
    if (!step->done) co_await self->changed.wait();
  }
  if (result != nullptr) *result = std::move(step->value);
  co_return step->error;
}

inline asio::awaitable<bool> deregister_step(asio::awaitable<void> work) {
  co_await std::move(work);
  co_return true;
}

inline asio::awaitable<bool> pause_step(std::chrono::milliseconds pause) {
  co_await sleep_for(pause);
  co_return true;
}

/// Counts signals as requests to stop. Gives them back to the system after the second: a third kills.
class SignalWatch : public std::enable_shared_from_this<SignalWatch> {
 public:
  SignalWatch(const asio::any_io_executor& executor, ServingPtr serving)
      : set_(executor), serving_(std::move(serving)) {
    for (const int number : serving_->config.signals) set_.add(number);
  }
  void arm() {
    if (serving_->config.signals.empty()) return;
    set_.async_wait([self = shared_from_this()](std::error_code error, int) {
      if (error) return;
      self->serving_->request_stop();
      if (self->serving_->stops < 2) {
        self->arm();
      } else {
        self->stop();
      }
    });
  }
  void stop() {
    std::error_code ignored;
    set_.cancel(ignored);
    set_.clear(ignored);
  }

 private:
  asio::signal_set set_;
  ServingPtr serving_;
};

/// Builds and starts the server. Returns the port.
inline int listen(Serving& self, grpc::ServerBuilder& builder, const asio::any_io_executor& executor) {
  const ServeConfig& config = self.config;
  int port = 0;
  std::optional<ListenAddress> listen;
  if (!config.listen_address.empty()) {
    listen = parse_listen_address(config.listen_address);
    auto credentials = config.credentials;
    if (!credentials) credentials = grpc::InsecureServerCredentials();
    const bool every = listen->host.empty() || listen->host == "*";
    const std::string address = every ? "[::]:" + std::to_string(listen->port) : config.listen_address;
    // Two servers must not share a port without knowing of each other, which gRPC would let them do.
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.AddListeningPort(address, credentials, &port);
  }
  self.server = builder.BuildAndStart();
  if (!self.server || (listen && port == 0)) {
    const std::error_code why =
        listen ? listen_error(executor, *listen) : std::make_error_code(std::errc::address_not_available);
    throw std::system_error(why, "cannot listen at " + (listen ? quote(config.listen_address)
                                                               : std::string("the ports of the builder")));
  }
  return port;
}

/// Everything after the server has started and before it stops. Returns when serving is to end; throws why it must.
inline asio::awaitable<void> stay_registered(ServingPtr self, Registry& registry, int port,
                                             Generator<ServeChange> changes) {
  const ServeConfig& config = self->config;
  ServiceInstance instance = config.instance;
  if (instance.endpoints.empty()) {
    const ListenAddress listen = *parse_listen_address(config.listen_address);
    AdvertiseDecision decision = advertise(config.advertised_host, listen.host, std::nullopt);
    if (decision.kind == AdvertiseDecision::NeedRoute) {
      const std::string route = co_await route_source(config.route_to);
      decision = advertise(config.advertised_host, listen.host, route);
    }
    if (decision.kind == AdvertiseDecision::Reject) {
      reject("advertised_host", quote(config.advertised_host), decision.why);
    }
    Endpoint endpoint;
    endpoint.host = decision.host;
    endpoint.port = static_cast<std::uint16_t>(port);
    instance.endpoints = {"grpc://" + endpoint.authority()};
  }
  const std::string id = instance.id;

  Registration registration;
  const auto failed =
      co_await until_stopped(self, 1, registry.register_instance(instance, config.ttl), &registration);
  if (failed) {
    if (self->stops > 0) co_return;  // whatever was under way is taken back
    std::rethrow_exception(failed);
  }
  std::exception_ptr error;
  try {
    if (config.on_registered) config.on_registered(registration, port);
  } catch (...) {
    error = std::current_exception();
  }
  if (!error) {
    auto following =
        follow_changes(registry, LiveInstance(config, instance, registration), std::move(changes));
    co_await until_stopped<bool>(self, 1, std::move(following), nullptr);
  }
  while (!error && self->stops == 0) co_await self->changed.wait();

  const auto kept = co_await until_stopped<bool>(self, 2, deregister_step(registry.deregister(id)), nullptr);
  if (kept && config.observer.logs()) {
    config.observer.log(LogLevel::Warning,
                        "cannot deregister " + quote(id) + ", it goes away with its lease");
  }
  if (error) std::rethrow_exception(error);
  co_await until_stopped<bool>(self, 2, pause_step(config.drain_delay), nullptr);
}

/// Refuses new calls, lets those under way end, or cancels them when their time is over.
inline asio::awaitable<void> drain(ServingPtr self) {
  struct Drained {
    std::atomic<bool> done{false};
  };
  const auto drained = std::make_shared<Drained>();
  const auto deadline = std::chrono::system_clock::now() +
                        (self->stops >= 2 ? std::chrono::milliseconds(0) : self->config.drain_timeout);
  // Raw: the helper must not own what joins it.
  self->helper = std::thread([server = self->server.get(), deadline, drained, changed = self->changed] {
    server->Shutdown(deadline);
    drained->done = true;
    changed.raise();
  });
  bool cancelled = false;
  while (!drained->done) {
    if (self->stops >= 2 && !std::exchange(cancelled, true)) self->cancel_calls();
    co_await self->changed.wait();
  }
  self->helper.join();
  self->server.reset();
}

inline asio::awaitable<void> serve_here(ServingPtr self, Registry& registry, int port,
                                        Generator<ServeChange> changes) {
  const auto signals = std::make_shared<SignalWatch>(co_await asio::this_coro::executor, self);
  signals->arm();
  try {
    co_await stay_registered(self, registry, port, std::move(changes));
  } catch (...) {
    self->error = std::current_exception();
  }
  co_await drain(self);
  signals->stop();
}

inline asio::awaitable<void> serve_with(Registry& registry, grpc::ServerBuilder& builder, ServeConfig config,
                                        Generator<ServeChange> changes) {
  validate(config);
  const auto self = std::make_shared<Serving>(std::move(config));
  const auto executor = co_await asio::this_coro::executor;
  const Home home = Home::strand(executor);
  const int port = listen(*self, builder, executor);
  auto end = [self](std::exception_ptr error) {
    if (error) self->error = error;
    self->over.raise();
  };
  home.spawn(serve_here(self, registry, port, std::move(changes)), std::move(end));
  std::function<void()> cancel = [weak = std::weak_ptr<Serving>(self)] {
    if (const auto running = weak.lock()) running->request_stop();
  };
  co_await self->over.wait(std::move(cancel));
  if (self->error) std::rethrow_exception(self->error);
  const auto state = co_await asio::this_coro::cancellation_state;
  if (state.cancelled() != asio::cancellation_type::none) throw_aborted();
}

}  // namespace detail

REGISTRY_DECL asio::awaitable<void> serve(Registry& registry, grpc::ServerBuilder& builder,
                                          ServeConfig config, Generator<ServeChange> changes) {
  return detail::serve_with(registry, builder, std::move(config), std::move(changes));
}

}  // namespace registry
