// A gRPC server that is configured by a YAML file: it registers itself, calls the other instances of its service, logs with
// spdlog, shows its metrics to Prometheus, and follows changes of the file (weight, status, metadata, version, TTL, log
// level) without registering again:
//   configured_server server.yaml [metrics-host:port]
// server.yaml beside this file is a complete example.
#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>
#include <prometheus/exposer.h>
#include <prometheus/registry.h>
#include <spdlog/spdlog.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <cstdio>
#include <exception>
#include <memory>
#include <registry/config/follow_settings.hpp>
#include <registry/observe/prometheus.hpp>
#include <registry/observe/spdlog.hpp>
#include <registry/registry.hpp>
#include <registry/rpc/resolver.hpp>
#include <registry/rpc/serve.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace {

// Answers by itself, but passes what comes in a Chat on: to all instances in turn, as their weights say.
class Greeter final : public greeter::Greeter::Service {
 public:
  Greeter(std::string id, const std::shared_ptr<grpc::Channel>& all)
      : id_(std::move(id)), all_(greeter::Greeter::NewStub(all)) {}

 private:
  grpc::Status SayHello(grpc::ServerContext*, const greeter::HelloRequest* request,
                        greeter::HelloReply* reply) override {
    reply->set_message("Hello, " + request->name());
    reply->set_served_by(id_);
    return grpc::Status::OK;
  }

  grpc::Status Chat(grpc::ServerContext*,
                    grpc::ServerReaderWriter<greeter::HelloReply, greeter::HelloRequest>* stream) override {
    greeter::HelloRequest request;
    while (stream->Read(&request)) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
      greeter::HelloReply reply;
      const grpc::Status status = all_->SayHello(&context, request, &reply);
      if (!status.ok()) return status;
      if (!stream->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  const std::string id_;
  const std::unique_ptr<greeter::Greeter::Stub> all_;
};

// What a running server takes from a new version of its file; the rest waits for a restart.
registry::ServeChange change_of(const registry::Settings& now) {
  spdlog::set_level(registry::SpdlogLogger::level_of(now.log_level));
  if (!now.instance) throw std::invalid_argument("the section \"instance\" is missing");
  return registry::ServeChange(*now.instance, now.ttl, now.server.listen_address);
}

asio::awaitable<void> run(asio::any_io_executor executor, const registry::Settings& settings,
                          const std::string& file, const registry::Observer& observer) {
  registry::etcd::Connector etcd(executor, settings.etcd, observer);
  registry::Registry reg(etcd, settings.registry, observer);

  registry::Resolver resolver(reg);
  const auto all =
      grpc::CreateChannel(resolver.target(settings.instance->name), grpc::InsecureChannelCredentials());
  Greeter service(settings.instance->id, all);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);

  registry::ServeConfig config(*settings.instance, settings.server.listen_address);
  config.advertised_host = settings.server.advertised_host;
  config.route_to = settings.etcd.endpoints.front();
  config.ttl = settings.ttl;
  config.observer = observer;
  config.on_registered = [](const registry::Registration& registration, int port) {
    spdlog::info("{} serves on port {}, registered for {} s at a time", registration.id, port,
                 registration.ttl.count());
  };
  auto changes = registry::serve_changes(registry::follow_settings(executor, file, observer), &change_of);
  co_await registry::serve(reg, builder, std::move(config), std::move(changes));
  co_await resolver.close();
  co_await reg.close();
  co_await etcd.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: %s server.yaml [metrics-host:port]\n", argv[0]);
    return 2;
  }
  const std::string file = argv[1];
  const registry::Settings settings = registry::load_settings(file);
  change_of(settings);

  auto numbers = std::make_shared<prometheus::Registry>();
  const registry::Observer observer(std::make_shared<registry::SpdlogLogger>(spdlog::default_logger()),
                                    std::make_shared<registry::PrometheusMetrics>(numbers));
  prometheus::Exposer exposer(argc == 3 ? argv[2] : "127.0.0.1:0");
  exposer.RegisterCollectable(numbers);
  spdlog::info("metrics at port {}, path /metrics", exposer.GetListeningPorts().front());

  asio::io_context io;
  std::exception_ptr failure;
  asio::co_spawn(io, run(io.get_executor(), settings, file, observer), [&](std::exception_ptr error) {
    failure = error;
    io.stop();
  });
  io.run();
  if (failure) std::rethrow_exception(failure);
  spdlog::info("stopped");
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "configured_server: %s\n", error.what());
  return 1;
}
