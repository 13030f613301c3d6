// Two etcd stubs in one program: starting without a clash in protobuf's descriptor pool, messages that mean
// the same bytes, and one call path served and called through both.
#include <grpcpp/grpcpp.h>
#include <registry_etcd_messages.pb.h>
#include <registry_etcd_services.grpc.pb.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "rpc.grpc.pb.h"

namespace {

int failures = 0;

void expect(bool ok, const char* what) {
  if (!ok) {
    std::fprintf(stderr, "failed: %s\n", what);
    ++failures;
  }
}

/// Serves the other stub's service; answers with as many keys as the request's key has bytes.
class OtherKv final : public etcdserverpb::KV::Service {
  grpc::Status Range(grpc::ServerContext*, const etcdserverpb::RangeRequest* request,
                     etcdserverpb::RangeResponse* response) override {
    response->mutable_header()->set_revision(7);
    response->set_count(static_cast<std::int64_t>(request->key().size()));
    return grpc::Status::OK;
  }
};

}  // namespace

int main() {
  OtherKv service;
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&service);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  expect(server && port != 0, "the server listens");
  const auto channel =
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials());

  {
    grpc::ClientContext context;
    registry::etcdpb::RangeRequest request;
    registry::etcdpb::RangeResponse response;
    request.set_key("abc");
    const auto stub = etcdserverpb::registry_stub::KV::NewStub(channel);
    expect(stub->Range(&context, request, &response).ok(), "our stub calls /etcdserverpb.KV/Range");
    expect(response.count() == 3 && response.header().revision() == 7, "our messages carry the same fields");
  }
  {
    grpc::ClientContext context;
    etcdserverpb::RangeRequest request;
    etcdserverpb::RangeResponse response;
    request.set_key("abcd");
    const auto stub = etcdserverpb::KV::NewStub(channel);
    expect(stub->Range(&context, request, &response).ok(), "the other stub calls the same path");
    expect(response.count() == 4, "the other stub's messages work");
    expect(etcdserverpb::RangeRequest::descriptor()->full_name() == "etcdserverpb.RangeRequest",
           "the other stub's descriptors work");
  }
  server->Shutdown();
  if (failures == 0) std::puts("two etcd stubs in one program work");
  return failures == 0 ? 0 : 1;
}
