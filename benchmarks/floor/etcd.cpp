// See etcd.hpp.
#include "floor/etcd.hpp"

#include <registry_etcd_messages.pb.h>
#include <registry_etcd_services.grpc.pb.h>

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <grpcpp/support/client_callback.h>

#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parser.hpp>
#include <latch>
#include <stdexcept>
#include <utility>

namespace bare {

namespace pb = registry::etcdpb;
namespace rpc = etcdserverpb::registry_stub;

namespace {

void check(const grpc::Status& status) {
  if (!status.ok()) throw std::runtime_error("etcd: " + status.error_message());
}

/// A unary call that was started, and what it needs.
template <class Request, class Response>
struct Call {
  grpc::ClientContext context;
  Request request;
  Response response;
  grpc::Status status;
};

}  // namespace

std::shared_ptr<grpc::Channel> connect(const std::string& endpoint) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(endpoint, grpc::InsecureChannelCredentials(), arguments);
}

void drop_json(const std::string& text) {
  thread_local boost::json::parser parser;
  thread_local unsigned char memory[16384];
  boost::json::monotonic_resource resource(memory, sizeof memory);
  parser.reset(&resource);
  parser.write(text);
  if (!parser.release().is_object()) throw std::runtime_error("a value is no object");
}

namespace {

pb::WatchRequest watch_request(const std::string& begin, const std::string& end) {
  pb::WatchRequest request;
  request.mutable_create_request()->set_key(begin);
  request.mutable_create_request()->set_range_end(end);
  return request;
}

void drop_events(const pb::WatchResponse& response, const std::function<void()>& on_event) {
  for (const pb::Event& event : response.events()) {
    drop_json(event.kv().value());
    on_event();
  }
}

class Reactor final : public grpc::ClientBidiReactor<pb::WatchRequest, pb::WatchResponse> {
 public:
  Reactor(pb::WatchRequest request, const std::function<void()>& on_created,
          const std::function<void()>& on_event)
      : request_(std::move(request)), on_created_(on_created), on_event_(on_event) {}

  grpc::Status run(rpc::Watch::Stub& stub, grpc::ClientContext& context) {
    stub.async()->Watch(&context, this);
    StartWrite(&request_);
    StartRead(&response_);
    StartCall();
    done_.wait();
    return status_;
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return;
    if (response_.created()) on_created_();
    drop_events(response_, on_event_);
    StartRead(&response_);
  }
  void OnDone(const grpc::Status& status) override {
    status_ = status;
    done_.count_down();
  }

  const pb::WatchRequest request_;
  const std::function<void()>&on_created_, &on_event_;
  pb::WatchResponse response_;
  grpc::Status status_;
  std::latch done_{1};
};

void check_end(const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::CANCELLED) check(status);
}

}  // namespace

void watch(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
           const std::string& begin, const std::string& end, const std::function<void()>& on_created,
           const std::function<void()>& on_event) {
  rpc::Watch::Stub stub(channel);
  const auto stream = stub.Watch(&context);
  pb::WatchResponse response;
  if (stream->Write(watch_request(begin, end)) && stream->Read(&response) && response.created()) {
    on_created();
    while (stream->Read(&response)) drop_events(response, on_event);
  }
  check_end(stream->Finish());
}

void watch_by_callbacks(const std::shared_ptr<grpc::Channel>& channel, grpc::ClientContext& context,
                        const std::string& begin, const std::string& end,
                        const std::function<void()>& on_created, const std::function<void()>& on_event) {
  rpc::Watch::Stub stub(channel);
  check_end(Reactor(watch_request(begin, end), on_created, on_event).run(stub, context));
}

std::size_t list(const std::shared_ptr<grpc::Channel>& channel, const std::string& begin,
                 const std::string& end, std::int64_t page_size) {
  rpc::KV::Stub stub(channel);
  pb::RangeRequest request;
  request.set_key(begin);
  request.set_range_end(end);
  request.set_limit(page_size);
  pb::RangeResponse response;
  std::size_t count = 0;
  do {
    grpc::ClientContext context;
    check(stub.Range(&context, request, &response));
    for (const pb::KeyValue& pair : response.kvs()) drop_json(pair.value());
    if (response.kvs_size() == 0) break;
    count += static_cast<std::size_t>(response.kvs_size());
    request.set_key(response.kvs(response.kvs_size() - 1).key() + '\0');
    if (request.revision() == 0) request.set_revision(response.header().revision());
  } while (response.more());
  return count;
}

std::vector<std::int64_t> register_all(const std::shared_ptr<grpc::Channel>& channel,
                                       const std::vector<std::pair<std::string, std::string>>& pairs,
                                       std::int64_t ttl) {
  struct Registration {
    Call<pb::LeaseGrantRequest, pb::LeaseGrantResponse> grant;
    Call<pb::PutRequest, pb::PutResponse> put;
  };
  rpc::Lease::Stub leases(channel);
  rpc::KV::Stub kv(channel);
  std::vector<Registration> all(pairs.size());
  std::latch done(static_cast<std::ptrdiff_t>(pairs.size()));
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    Registration& each = all[i];
    each.grant.request.set_ttl(ttl);
    each.put.request.set_key(pairs[i].first);
    each.put.request.set_value(pairs[i].second);
    leases.async()->LeaseGrant(&each.grant.context, &each.grant.request, &each.grant.response,
                               [&each, &kv, &done](grpc::Status granted) {
                                 each.grant.status = granted;
                                 if (!granted.ok()) return done.count_down();
                                 each.put.request.set_lease(each.grant.response.id());
                                 kv.async()->Put(&each.put.context, &each.put.request, &each.put.response,
                                                 [&each, &done](grpc::Status stored) {
                                                   each.put.status = stored;
                                                   done.count_down();
                                                 });
                               });
  }
  done.wait();
  std::vector<std::int64_t> granted;
  for (const Registration& each : all) {
    check(each.grant.status);
    check(each.put.status);
    granted.push_back(each.grant.response.id());
  }
  return granted;
}

void revoke_all(const std::shared_ptr<grpc::Channel>& channel, const std::vector<std::int64_t>& leases) {
  rpc::Lease::Stub stub(channel);
  std::vector<Call<pb::LeaseRevokeRequest, pb::LeaseRevokeResponse>> all(leases.size());
  std::latch done(static_cast<std::ptrdiff_t>(leases.size()));
  for (std::size_t i = 0; i < leases.size(); ++i) {
    auto& each = all[i];
    each.request.set_id(leases[i]);
    stub.async()->LeaseRevoke(&each.context, &each.request, &each.response,
                              [&each, &done](grpc::Status status) {
                                each.status = status;
                                done.count_down();
                              });
  }
  done.wait();
  for (const auto& each : all) check(each.status);
}

}  // namespace bare
