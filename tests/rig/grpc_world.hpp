// Real gRPC servers that are registered in a store, and a Resolver that publishes them, for tests of channels.
#pragma once

#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <chrono>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "registry/rpc/resolver.hpp"
#include "rig/eventually.hpp"
#include "rig/greeter.hpp"
#include "rig/world.hpp"

namespace rig {

using GreeterStub = std::unique_ptr<greeter::Greeter::Stub>;

/// What a call spread over: instance id to number of calls; "" counts failures.
using Spread = std::map<std::string, int>;

/// A MemoryWorld with a Resolver.
struct GrpcWorld : MemoryWorld {
  static constexpr auto service = "user-service";

  explicit GrpcWorld(registry::ResolverConfig config = registry::ResolverConfig())
      : resolver(reg, std::move(config)) {}

  /// An instance at this endpoint; metadata as {"weight", "3"}.
  static registry::ServiceInstance instance(const std::string& id, const std::string& endpoint,
                                            std::map<std::string, std::string> metadata = {}) {
    registry::ServiceInstance made(service, id);
    made.endpoints = {endpoint};
    made.metadata = std::move(metadata);
    return made;
  }
  void add(const Greeter& server, std::map<std::string, std::string> metadata = {},
           std::string version = {}) {
    registry::ServiceInstance made =
        instance(server.id(), "grpc://" + server.endpoint(), std::move(metadata));
    made.version = std::move(version);
    run(reg.register_instance(made));
  }
  void change(const Greeter& server, std::map<std::string, std::string> metadata) {
    run(reg.update_instance(instance(server.id(), "grpc://" + server.endpoint(), std::move(metadata))));
  }
  void remove(const std::string& id) { run(reg.deregister(id)); }

  std::shared_ptr<grpc::Channel> channel(std::size_t at_least = 0) {
    registry::ConnectionOptions options;
    options.at_least = at_least;
    return run(resolver.get_connection(service, grpc::InsecureChannelCredentials(), options));
  }
  GreeterStub stub(std::size_t at_least = 0) { return greeter::Greeter::NewStub(channel(at_least)); }

  registry::Resolver resolver;
};

inline Spread spread(greeter::Greeter::StubInterface& stub, int calls) {
  Spread found;
  for (int i = 0; i < calls; ++i) {
    const Hello made = hello(stub);
    ++found[made.status.ok() ? made.served_by : ""];
  }
  return found;
}

}  // namespace rig
