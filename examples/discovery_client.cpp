// Calls whichever instance of a service is least loaded, by plain HTTP over Asio, twice a second until SIGINT:
//   discovery_client 127.0.0.1:2379 web-service
// Any HTTP server will do; try two of `python3 -m http.server 8001` and
//   register_service 127.0.0.1:2379 web-service web-1 http://127.0.0.1:8001
#include <asio/co_spawn.hpp>
#include <asio/connect.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read_until.hpp>
#include <asio/signal_set.hpp>
#include <asio/steady_timer.hpp>
#include <asio/write.hpp>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <registry/registry.hpp>
#include <string>
#include <utility>

namespace {

using namespace std::chrono_literals;
using asio::ip::tcp;

/// How one call went. (A class with a constructor: g++ 12 miscompiles temporaries of aggregates inside co_await.)
struct Answer {
  Answer() {}
  Answer(bool good, std::string words) : ok(good), text(std::move(words)) {}
  bool ok = false;
  std::string text;
};

/// The first line of the answer: "HTTP/1.0 200 OK".
asio::awaitable<Answer> get(std::string host, std::string port) try {
  const auto executor = co_await asio::this_coro::executor;
  tcp::resolver resolver(executor);
  const auto addresses = co_await resolver.async_resolve(host, port, asio::use_awaitable);
  tcp::socket socket(executor);
  co_await asio::async_connect(socket, addresses, asio::use_awaitable);
  const std::string request = "GET / HTTP/1.0\r\nHost: " + host + "\r\n\r\n";
  co_await asio::async_write(socket, asio::buffer(request), asio::use_awaitable);
  std::string answer;
  const std::size_t end = co_await asio::async_read_until(socket, asio::dynamic_buffer(answer, 8192), "\r\n",
                                                          asio::use_awaitable);
  co_return Answer(true, answer.substr(0, end - 2));
} catch (const std::system_error& error) {
  co_return Answer(false, error.what());
}

asio::awaitable<void> call(registry::ServiceView view, registry::LeastLoadedBalancer& balancer) {
  using namespace asio::experimental::awaitable_operators;
  auto picked = balancer.begin(view);  // in flight until the end of this function
  if (!picked) {
    std::printf("nobody there\n");
    co_return;
  }
  const auto address = registry::parse_endpoint(picked->endpoints.front());
  asio::steady_timer limit(co_await asio::this_coro::executor, 2s);
  const auto first =
      co_await (get(address->host, std::to_string(address->port)) || limit.async_wait(asio::use_awaitable));
  const Answer answer = first.index() == 0 ? std::get<0>(first) : Answer(false, "no answer in 2 s");
  if (!answer.ok) picked.failed();  // the others are preferred for a while
  std::printf("%s at %s: %s%s\n", picked->id.c_str(), address->authority().c_str(), answer.text.c_str(),
              view.snapshot()->stale ? " (etcd is away: last known list)" : "");
}

asio::awaitable<void> run(registry::Registry& reg, std::string service) {
  using namespace asio::experimental::awaitable_operators;
  const auto executor = co_await asio::this_coro::executor;
  asio::signal_set signals(executor, SIGINT, SIGTERM);
  auto view = co_await reg.subscribe(service);
  registry::LeastLoadedBalancer balancer;
  asio::steady_timer pause(executor);
  for (;;) {
    co_await call(view, balancer);
    std::fflush(stdout);
    pause.expires_after(500ms);
    const auto first =
        co_await (pause.async_wait(asio::use_awaitable) || signals.async_wait(asio::use_awaitable));
    if (first.index() == 1) break;
  }
  co_await reg.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s etcd-host:port service\n", argv[0]);
    return 2;
  }
  asio::io_context io;
  registry::etcd::ConnectorConfig config;
  config.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), config);
  registry::Registry reg(etcd);
  asio::co_spawn(io, run(reg, argv[2]), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "discovery_client: %s\n", error.what());
  return 1;
}
