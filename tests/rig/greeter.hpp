// A real gRPC server of the examples' Greeter, for tests of channels: `Greeter server("user-1");`
#pragma once

#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace rig {

/// Says by whom it was served. Calls with the name "hold" are answered by release() only. Any thread.
class Greeter final : public greeter::Greeter::CallbackService {
 public:
  explicit Greeter(std::string id, const std::string& address = "127.0.0.1:0") : id_(std::move(id)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    if (!server_) throw std::runtime_error("cannot listen on " + address);
  }
  ~Greeter() override { stop(); }

  /// Graceful: calls under way end first, up to the grace; then they are cancelled.
  void stop(std::chrono::milliseconds grace = std::chrono::milliseconds(0)) {
    if (grace.count() == 0) release();
    if (server_) server_->Shutdown(std::chrono::system_clock::now() + grace);
    server_.reset();
  }
  void release() {
    std::vector<grpc::ServerUnaryReactor*> held;
    {
      const std::lock_guard lock(mutex_);
      held.swap(held_);
    }
    for (auto* reactor : held) reactor->Finish(grpc::Status::OK);
  }

  const std::string& id() const { return id_; }
  int port() const { return port_; }
  std::string endpoint() const { return "127.0.0.1:" + std::to_string(port_); }
  std::uint64_t calls() const { return calls_; }
  std::size_t held() const {
    const std::lock_guard lock(mutex_);
    return held_.size();
  }

 private:
  grpc::ServerUnaryReactor* SayHello(grpc::CallbackServerContext* context,
                                     const greeter::HelloRequest* request,
                                     greeter::HelloReply* reply) override {
    ++calls_;
    reply->set_message("hello " + request->name());
    reply->set_served_by(id_);
    grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
    if (request->name() != "hold") {
      reactor->Finish(grpc::Status::OK);
      return reactor;
    }
    const std::lock_guard lock(mutex_);
    held_.push_back(reactor);
    return reactor;
  }

  const std::string id_;
  int port_ = 0;
  std::atomic<std::uint64_t> calls_{0};
  mutable std::mutex mutex_;
  std::vector<grpc::ServerUnaryReactor*> held_;
  std::unique_ptr<grpc::Server> server_;
};

/// One blocking call; who served it, or the error.
struct Hello {
  grpc::Status status;
  std::string served_by;
};
inline Hello hello(greeter::Greeter::StubInterface& stub,
                   std::chrono::milliseconds timeout = std::chrono::seconds(5), bool wait_for_ready = false,
                   const std::map<std::string, std::string>& metadata = {}) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout);
  context.set_wait_for_ready(wait_for_ready);
  for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
  greeter::HelloRequest request;
  request.set_name("you");
  greeter::HelloReply reply;
  Hello made;
  made.status = stub.SayHello(&context, request, &reply);
  made.served_by = reply.served_by();
  return made;
}

}  // namespace rig
