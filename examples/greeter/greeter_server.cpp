// A gRPC server that registers itself in etcd and leaves gracefully on SIGINT or SIGTERM:
//   greeter_server 127.0.0.1:2379 greeter-1 [listen-address]
#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <cstdio>
#include <exception>
#include <registry/registry.hpp>
#include <registry/rpc/serve.hpp>
#include <string>
#include <utility>

namespace {

class Greeter final : public greeter::Greeter::Service {
 public:
  explicit Greeter(std::string id) : id_(std::move(id)) {}

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
    greeter::HelloReply reply;
    reply.set_served_by(id_);
    while (stream->Read(&request)) {
      reply.set_message("Hello, " + request.name());
      if (!stream->Write(reply)) break;
    }
    return grpc::Status::OK;
  }

  const std::string id_;
};

asio::awaitable<void> run(registry::Registry& reg, std::string id, std::string listen, std::string etcd) {
  Greeter service(id);
  grpc::ServerBuilder builder;
  builder.RegisterService(&service);

  registry::ServeConfig config(registry::ServiceInstance("greeter", id), listen);
  config.route_to = etcd;
  config.on_registered = [id](const registry::Registration& registration, int port) {
    std::printf("%s serves on port %d, registered for %lld s at a time\n", id.c_str(), port,
                static_cast<long long>(registration.ttl.count()));
    std::fflush(stdout);
  };
  co_await registry::serve(reg, builder, config);
  std::printf("%s has stopped\n", id.c_str());
  co_await reg.close();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: %s etcd-host:port id [listen-host:port]\n", argv[0]);
    return 2;
  }
  const std::string listen = argc == 4 ? argv[3] : "0.0.0.0:0";
  asio::io_context io;
  registry::etcd::ConnectorConfig settings;
  settings.endpoints = {argv[1]};
  registry::etcd::Connector etcd(io.get_executor(), settings);
  registry::Registry reg(etcd);
  asio::co_spawn(io, run(reg, argv[2], listen, argv[1]), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "greeter_server: %s\n", error.what());
  return 1;
}
