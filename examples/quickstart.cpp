// Instances of a service come, change and go, and a watcher prints what it sees. Then a channel spreads calls
// over three gRPC servers, and one of them leaves without a failed call. Runs on the embedded store, or on etcd:
//   quickstart --etcd 127.0.0.1:2379
#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/io_context.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <registry/registry.hpp>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

// --- Registration and discovery -----------------------------------------------------------------

asio::awaitable<void> watch_users(registry::Generator<registry::ServiceEvent> events) {
  while (auto event = co_await events.next()) {
    const auto& user = event->service;
    const bool put = event->type == registry::EventType::Put;
    std::printf("  [%lld] %-6s %s/%s", static_cast<long long>(event->revision), put ? "PUT" : "DELETE",
                user.name.c_str(), user.id.c_str());
    if (put) std::printf(" at %s, version %s", user.endpoints.front().c_str(), user.version.c_str());
    std::printf("\n");
  }
  std::printf("  the watch has ended\n");
}

asio::awaitable<void> instances(registry::Registry& reg) {
  asio::co_spawn(co_await asio::this_coro::executor, watch_users(reg.watch("user-service")), asio::detached);

  std::printf("three instances come\n");
  for (int i = 1; i <= 3; ++i) {
    registry::ServiceInstance user("user-service", "user-" + std::to_string(i));
    user.version = "v1";
    user.endpoints = {"grpc://127.0.0.1:900" + std::to_string(i)};
    const auto registration = co_await reg.register_instance(user, 30s);
    std::printf("registered %s at revision %lld, renewed under a lease of %llds\n", registration.id.c_str(),
                static_cast<long long>(registration.revision),
                static_cast<long long>(registration.ttl.count()));
  }

  std::printf("one changes\n");
  registry::ServiceInstance changed("user-service", "user-2");
  changed.version = "v2";
  changed.endpoints = {"grpc://127.0.0.1:9002"};
  co_await reg.update_instance(changed);

  std::printf("one goes\n");
  co_await reg.deregister("user-1");

  registry::ServiceView view = co_await reg.subscribe("user-service");
  std::printf("there are now %zu instances:", view.snapshot()->instances.size());
  for (const auto& instance : view.snapshot()->instances) {
    std::printf(" %s(%s)", instance->id.c_str(), instance->version.c_str());
  }
  std::printf("\n");
}

// --- gRPC ---------------------------------------------------------------------------------------

// A gRPC server in this process.
class Server final : public greeter::Greeter::Service {
 public:
  explicit Server(std::string id) : id_(std::move(id)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (!server_) throw std::runtime_error("cannot listen on 127.0.0.1");
  }

  registry::ServiceInstance instance() const {
    registry::ServiceInstance made("greeter", id_);
    made.endpoints = {"grpc://127.0.0.1:" + std::to_string(port_)};
    return made;
  }

  // Refuses new calls; those under way have a second to end.
  void stop() { server_->Shutdown(std::chrono::system_clock::now() + 1s); }

 private:
  grpc::Status SayHello(grpc::ServerContext*, const greeter::HelloRequest* request,
                        greeter::HelloReply* reply) override {
    reply->set_message("Hello, " + request->name());
    reply->set_served_by(id_);
    return grpc::Status::OK;
  }

  const std::string id_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

// Makes one call after the other, on a thread of its own, and counts who answered.
class Caller {
 public:
  explicit Caller(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(greeter::Greeter::NewStub(channel)), thread_([this](std::stop_token stop) {
          while (!stop.stop_requested()) call();
        }) {}

  // Whether there is something to report.
  bool has_news() const {
    const std::lock_guard lock(mutex_);
    return calls_ >= 300 || failed_ > 0;
  }

  // Prints what was counted since the last time.
  void report(const char* step) {
    const std::lock_guard lock(mutex_);
    std::printf("%s: %d calls", step, calls_);
    for (const auto& [id, count] : answered_) std::printf(", %s %d", id.c_str(), count);
    std::printf("; %d failed\n", failed_);
    if (failed_ > 0) throw std::runtime_error("a call failed: " + error_);
    answered_.clear();
    calls_ = 0;
  }

 private:
  void call() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + 5s);
    greeter::HelloRequest request;
    request.set_name("you");
    greeter::HelloReply reply;
    const grpc::Status status = stub_->SayHello(&context, request, &reply);
    const std::lock_guard lock(mutex_);
    ++calls_;
    if (status.ok()) {
      ++answered_[reply.served_by()];
    } else {
      ++failed_;
      error_ = status.error_message();
    }
  }

  const std::unique_ptr<greeter::Greeter::Stub> stub_;
  mutable std::mutex mutex_;
  std::map<std::string, int> answered_;
  int calls_ = 0, failed_ = 0;
  std::string error_;
  std::jthread thread_;
};

asio::awaitable<void> pause(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(asio::use_awaitable);
}

asio::awaitable<void> report(Caller& caller, const char* step) {
  while (!caller.has_news()) co_await pause(10ms);
  caller.report(step);
}

asio::awaitable<void> calls(registry::Registry& reg) {
  std::vector<std::unique_ptr<Server>> servers;
  for (int i = 1; i <= 3; ++i) {
    servers.push_back(std::make_unique<Server>("greeter-" + std::to_string(i)));
    co_await reg.register_instance(servers.back()->instance());
  }
  registry::Resolver resolver(reg);
  auto channel = co_await resolver.get_connection("greeter", grpc::InsecureChannelCredentials());
  Caller caller(channel);  // calls from now on
  co_await report(caller, "three gRPC servers share the calls");

  // The way to leave that no caller notices; registry::serve does this when SIGTERM comes.
  co_await reg.deregister("greeter-1");
  co_await pause(500ms);  // channels hear of it, and meanwhile calls are still answered
  co_await report(caller, "greeter-1 is deregistered");
  servers.front()->stop();
  co_await report(caller, "greeter-1 has stopped");
  co_await resolver.close();
}

asio::awaitable<void> run(registry::Registry& reg) {
  co_await instances(reg);
  co_await calls(reg);
  std::printf("closing takes the rest away\n");
  co_await reg.close();
}

int main(int argc, char** argv) try {
  asio::io_context io;
  std::unique_ptr<registry::Store> store;
  if (argc == 3 && std::string(argv[1]) == "--etcd") {
    registry::etcd::ConnectorConfig config;
    config.endpoints = {argv[2]};
    store = std::make_unique<registry::etcd::Connector>(io.get_executor(), config);
  } else if (argc == 1) {
    store = std::make_unique<registry::MemoryStore>(io.get_executor());
  } else {
    std::fprintf(stderr, "usage: %s [--etcd host:port]\n", argv[0]);
    return 2;
  }
  registry::Registry reg(*store);
  std::exception_ptr failure;
  asio::co_spawn(io, run(reg), [&](std::exception_ptr error) {
    failure = error;
    if (error) io.stop();
  });
  io.run();
  if (failure) std::rethrow_exception(failure);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "quickstart: %s\n", error.what());
  return 1;
}
