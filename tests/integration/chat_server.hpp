// A real gRPC server for tests of streams: the Greeter of the examples, doing what the requests tell it.
#pragma once

#include <greeter.grpc.pb.h>
#include <grpcpp/grpcpp.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

namespace rig {

/// Chat answers each request with "hello <name>", but: "end" ends the call, "abort" fails it, "flood N" is
/// answered N times with a kilobyte, "stall" makes it read nothing until `release()`.
class ChatServer final : public greeter::Greeter::Service {
 public:
  explicit ChatServer(std::string id = "server", const std::string& address = "127.0.0.1:0")
      : id_(std::move(id)) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ChatServer() override { stop(); }

  /// Cancels what runs.
  void stop() {
    release();
    if (server_) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  void release() { released_ = true; }

  int port() const { return port_; }
  std::string endpoint() const { return "127.0.0.1:" + std::to_string(port_); }
  std::shared_ptr<grpc::Channel> channel() const {
    return grpc::CreateChannel(endpoint(), grpc::InsecureChannelCredentials());
  }

  std::atomic<int> opened{0}, open{0}, received{0}, sent{0}, half_closed{0}, cancelled{0};

 private:
  using Stream = grpc::ServerReaderWriter<greeter::HelloReply, greeter::HelloRequest>;

  grpc::Status Chat(grpc::ServerContext* context, Stream* stream) override {
    ++opened;
    ++open;
    const grpc::Status status = chat(context, stream);
    if (context->IsCancelled()) ++cancelled;
    --open;
    return status;
  }

  grpc::Status chat(grpc::ServerContext* context, Stream* stream) {
    greeter::HelloRequest request;
    greeter::HelloReply reply;
    const auto who = context->client_metadata().find("who");
    reply.set_served_by(
        who == context->client_metadata().end() ? id_ : std::string(who->second.data(), who->second.size()));
    while (stream->Read(&request)) {
      ++received;
      const std::string& name = request.name();
      if (name == "end") return grpc::Status::OK;
      if (name == "abort") return grpc::Status(grpc::StatusCode::ABORTED, "asked to");
      if (name == "stall") {
        while (!released_ && !context->IsCancelled())
          std::this_thread::sleep_for(std::chrono::milliseconds(1));
        continue;
      }
      int times = 1;
      reply.set_message("hello " + name.substr(0, 100));
      if (name.starts_with("flood ")) {
        times = std::stoi(name.substr(6));
        reply.set_message(std::string(1024, 'x'));
      }
      for (; times > 0; --times) {
        if (!stream->Write(reply)) return grpc::Status::CANCELLED;
        ++sent;
      }
    }
    ++half_closed;
    return grpc::Status::OK;
  }

  const std::string id_;
  int port_ = 0;
  std::atomic<bool> released_{false};
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace rig
