// The resources of one control plane and the streams that follow them. A change goes out on every stream that
// asked for it; who asks for what is told to the publisher.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>
#include <grpcpp/support/status.h>

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "registry/policy/ads_stream.hpp"
#include "registry/rpc/xds_stub.hpp"

namespace registry::detail {

inline std::optional<AdsRequest> read_request(grpc::ByteBuffer& buffer) {
  grpc::Slice slice;
  xds::DiscoveryRequest message;
  if (!buffer.DumpToSingleSlice(&slice).ok() ||
      !message.ParseFromArray(slice.begin(), static_cast<int>(slice.size())))
    return std::nullopt;
  AdsRequest request;
  request.type_url = std::move(*message.mutable_type_url());
  request.nonce = std::move(*message.mutable_response_nonce());
  request.names.assign(message.resource_names().begin(), message.resource_names().end());
  if (message.has_error_detail())
    request.error = std::move(*message.mutable_error_detail()->mutable_message());
  return request;
}

/// Thread-safe: gRPC's threads bring requests, the publishers' strands bring resources. Nothing of the outside is
/// called with the lock held.
class AdsTable {
 public:
  /// The Listener or Cluster of a name that nobody has published: every name has them, or calls that wait for it
  /// would wait for ever (only its endpoints say whether it exists).
  using Describe = std::function<std::string(XdsType, const std::string& name)>;
  /// Streams began or ceased to ask for the endpoints of a name: look at wanted(). Any thread.
  using Demand = std::function<void(const std::string& name)>;
  /// A client refused an answer. Any thread.
  using Refused = std::function<void(const AdsNack& nack)>;

  AdsTable(Describe describe, Demand demand, Refused refused)
      : describe_(std::move(describe)), demand_(std::move(demand)), refused_(std::move(refused)) {}

  /// Resources that belong to one change; an empty value takes the name's endpoints out of the table again.
  struct Change {
    XdsType type;
    std::string name;
    std::optional<std::string> resource;
    bool none = false;  // of endpoints: there are none at the moment

    Change(XdsType of, std::string named) : type(of), name(std::move(named)) {}
  };
  void publish(std::vector<Change> changes);

  /// Whether a stream asks for the endpoints of a name.
  bool wanted(const std::string& name) {
    const std::lock_guard lock(mutex_);
    return wanted_.contains(name);
  }

  /// Ends all streams and takes no new ones.
  void close();

  class Reactor;

 private:
  using Resource = std::shared_ptr<const std::string>;
  struct Events {  // to be told once the lock is free
    std::vector<std::string> demand;
    std::optional<AdsNack> nack;
  };

  std::map<std::string, Resource>& of(XdsType type) { return resources_[static_cast<std::size_t>(type)]; }
  void want(const std::vector<std::string>& names, bool wanted, Events& events);
  Resource resource(XdsType type, const std::string& name);
  grpc::ByteBuffer encode(const AdsAnswer& answer);
  void tell(const Events& events);

  const Describe describe_;
  const Demand demand_;
  const Refused refused_;
  std::mutex mutex_;
  std::array<std::map<std::string, Resource>, 3> resources_;
  std::map<std::string, std::size_t> wanted_;  // endpoints, by streams that ask for them
  std::set<Reactor*> streams_;
  bool closed_ = false;
};

/// One stream. Belongs to gRPC, which frees it after its last reaction.
class AdsTable::Reactor final : public grpc::ServerGenericBidiReactor {
 public:
  explicit Reactor(std::shared_ptr<AdsTable> table) : table_(std::move(table)) {
    const std::lock_guard lock(table_->mutex_);
    if (table_->closed_) {
      end(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is closing"));
      return;
    }
    table_->streams_.insert(this);
    StartRead(&incoming_);
  }

  // The rest is called with the table's lock held.

  void end(const grpc::Status& status) {
    if (std::exchange(ended_, true)) return;
    Finish(status);
  }
  void push() {
    if (ended_) return;
    const std::optional<AdsAnswer> answer = protocol.next();
    if (!answer) return;
    outgoing_ = table_->encode(*answer);
    StartWrite(&outgoing_);
  }

  AdsStream protocol;

 private:
  void OnReadDone(bool ok) override {
    std::optional<AdsRequest> request = ok ? read_request(incoming_) : std::nullopt;
    Events events;
    {
      const std::lock_guard lock(table_->mutex_);
      if (!ok) return end(grpc::Status::OK);
      if (!request) return end(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "not a DiscoveryRequest"));
      const AdsOutcome outcome = protocol.request(*request);
      if (!outcome.refusal.empty())
        return end(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, outcome.refusal));
      if (outcome.nacked) events.nack = protocol.last_nack();
      if (outcome.type == XdsType::Endpoints) {
        table_->want(outcome.subscribed, true, events);
        table_->want(outcome.unsubscribed, false, events);
        for (const std::string& name : outcome.subscribed) {
          if (table_->of(XdsType::Endpoints).contains(name)) protocol.loaded(name);
        }
      }
      push();
      if (!ended_) StartRead(&incoming_);
    }
    table_->tell(events);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(table_->mutex_);
    protocol.written();
    if (ok) push();
  }

  void OnCancel() override {
    const std::lock_guard lock(table_->mutex_);
    end(grpc::Status::CANCELLED);
  }

  void OnDone() override {
    Events events;
    {
      const std::lock_guard lock(table_->mutex_);
      table_->streams_.erase(this);
      const auto& names = protocol.subscriptions(XdsType::Endpoints);
      table_->want(std::vector<std::string>(names.begin(), names.end()), false, events);
    }
    table_->tell(events);
    delete this;
  }

  const std::shared_ptr<AdsTable> table_;
  grpc::ByteBuffer incoming_, outgoing_;
  bool ended_ = false;
};

inline void AdsTable::publish(std::vector<Change> changes) {
  const std::lock_guard lock(mutex_);
  for (Change& change : changes) {
    auto& table = of(change.type);
    if (!change.resource) {
      table.erase(change.name);
      continue;
    }
    Resource& known = table[change.name];
    const bool first = known == nullptr;
    known = std::make_shared<const std::string>(std::move(*change.resource));
    for (Reactor* stream : streams_) {
      if (change.type == XdsType::Endpoints && first) stream->protocol.loaded(change.name);
      if (change.none) {
        stream->protocol.emptied(change.name);
      } else {
        stream->protocol.changed(change.type, change.name);
      }
    }
  }
  for (Reactor* stream : streams_) stream->push();
}

inline void AdsTable::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  for (Reactor* stream : streams_)
    stream->end(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the control plane is closing"));
}

inline void AdsTable::want(const std::vector<std::string>& names, bool wanted, Events& events) {
  for (const std::string& name : names) {
    std::size_t& streams = wanted_[name];
    if (wanted ? streams++ == 0 : --streams == 0) events.demand.push_back(name);
    if (streams == 0) wanted_.erase(name);
  }
}

inline AdsTable::Resource AdsTable::resource(XdsType type, const std::string& name) {
  const auto found = of(type).find(name);
  return found != of(type).end() ? found->second : std::make_shared<const std::string>(describe_(type, name));
}

inline grpc::ByteBuffer AdsTable::encode(const AdsAnswer& answer) {
  xds::DiscoveryResponse message;
  message.set_version_info(answer.version);
  message.set_nonce(answer.nonce);
  message.set_type_url(std::string(type_url(answer.type)));
  for (const std::string& name : answer.names) {
    auto& any = *message.add_resources();
    any.set_type_url(std::string(type_url(answer.type)));
    any.set_value(*resource(answer.type, name));
  }
  grpc::Slice slice(message.SerializeAsString());
  return grpc::ByteBuffer(&slice, 1);
}

inline void AdsTable::tell(const Events& events) {
  for (const std::string& name : events.demand) demand_(name);
  if (events.nack) refused_(*events.nack);
}

}  // namespace registry::detail
