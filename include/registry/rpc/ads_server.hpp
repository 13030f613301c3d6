// The control plane's gRPC server: aggregated discovery for one table, on a unix socket or a TCP port.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/model/text.hpp"
#include "registry/rpc/ads_table.hpp"

namespace registry::detail {

/// Answers by method name, so that no message or service of Envoy's has to exist in this program.
class AdsService final : public grpc::CallbackGenericService {
 public:
  explicit AdsService(std::shared_ptr<AdsTable> table) : table_(std::move(table)) {}

  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    if (context->method() ==
        "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources")
      return new AdsTable::Reactor(table_);
    return grpc::CallbackGenericService::CreateReactor(context);
  }

 private:
  const std::shared_ptr<AdsTable> table_;
};

/// Listens while it lives. Destroying it ends the streams and waits, for milliseconds, until gRPC has let go of
/// them: never on a thread of gRPC's.
class AdsServer {
 public:
  /// Throws `invalid_argument` when `address` cannot be listened on.
  AdsServer(const std::string& address, std::shared_ptr<AdsTable> table)
      : table_(std::move(table)), service_(table_) {
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // a port that is taken is an error
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(&service_);
    server_ = builder.BuildAndStart();
    if (!server_)
      fail(errc::invalid_argument, "the control plane cannot listen on " + quote(address) +
                                       ": use another address, or see who uses it");
  }
  AdsServer(const AdsServer&) = delete;
  AdsServer& operator=(const AdsServer&) = delete;
  ~AdsServer() {
    table_->close();
    server_->Shutdown(std::chrono::system_clock::now());
  }

  int port() const noexcept { return port_; }
  AdsTable& table() const noexcept { return *table_; }

 private:
  const std::shared_ptr<AdsTable> table_;
  AdsService service_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace registry::detail
