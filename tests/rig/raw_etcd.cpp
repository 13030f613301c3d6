#include "rig/raw_etcd.hpp"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <random>
#include <stdexcept>
#include <utility>

#include "rig/quiet_thread.hpp"

namespace rig {

using namespace std::chrono_literals;

namespace {

std::shared_ptr<grpc::Channel> open(const std::string& endpoint) {
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(-1);
  args.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A paused member is left after 8 s; etcd allows no more pings than one in 5 s.
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 6000);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2000);
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 1000);
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 200);
  return grpc::CreateCustomChannel(endpoint, grpc::InsecureChannelCredentials(), args);
}

RawEvent event_of(const raw::pb::KeyValue& kv, bool deleted) {
  RawEvent event;
  event.deleted = deleted;
  event.key = kv.key();
  event.value = kv.value();
  event.mod_revision = kv.mod_revision();
  event.lease = kv.lease();
  return event;
}

}  // namespace

std::string end_of_prefix(std::string prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.pop_back();
  if (prefix.empty()) return std::string(1, '\0');
  prefix.back() = static_cast<char>(static_cast<unsigned char>(prefix.back()) + 1);
  return prefix;
}

struct RawEtcd::Node {
  explicit Node(const std::string& endpoint) : channel(open(endpoint)) {}
  const std::shared_ptr<grpc::Channel> channel;
  raw::rpc::KV::Stub kv{channel};
  raw::rpc::Lease::Stub lease{channel};
  raw::rpc::Auth::Stub auth{channel};
};

RawEtcd::RawEtcd(std::vector<std::string> endpoints, std::chrono::milliseconds timeout) : timeout_(timeout) {
  for (const auto& endpoint : endpoints) nodes_.push_back(std::make_shared<Node>(endpoint));
}

template <class Call>
void RawEtcd::send(Call call) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + timeout_);
  context.AddMetadata("hasleader", "true");
  if (!token_.empty()) context.AddMetadata("token", token_);
  status_ = call(*nodes_[current_], context);
}

template <class Call>
bool RawEtcd::once(Call call) {
  if (user_.empty() || !token_.empty() || authenticate()) send(call);
  // Tokens live in the memory of a member, for a while.
  if (status_.error_code() == grpc::StatusCode::UNAUTHENTICATED && !user_.empty() && authenticate())
    send(call);
  if (!status_.ok()) current_ = (current_ + 1) % nodes_.size();
  return status_.ok();
}

bool RawEtcd::authenticate() {
  raw::pb::AuthenticateRequest request;
  request.set_name(user_);
  request.set_password(password_);
  raw::pb::AuthenticateResponse response;
  token_.clear();
  send([&](Node& at, auto& context) { return at.auth.Authenticate(&context, request, &response); });
  token_ = response.token();
  return status_.ok();
}

template <class Call>
void RawEtcd::persist(Call call) {
  const auto end = std::chrono::steady_clock::now() + 20s;
  while (!once(call)) {
    if (std::chrono::steady_clock::now() >= end)
      throw std::runtime_error("etcd did not answer: " + status_.error_message());
    std::this_thread::sleep_for(20ms);
  }
}

bool RawEtcd::login(const std::string& user, const std::string& password) {
  user_ = user;
  password_ = password;
  if (authenticate()) return true;
  current_ = (current_ + 1) % nodes_.size();
  return false;
}

std::optional<std::int64_t> RawEtcd::put(const std::string& key, const std::string& value,
                                         std::int64_t lease) {
  raw::pb::PutRequest request;
  request.set_key(key);
  request.set_value(value);
  request.set_lease(lease);
  raw::pb::PutResponse response;
  if (!once([&](Node& at, auto& context) { return at.kv.Put(&context, request, &response); })) return {};
  return response.header().revision();
}

std::optional<std::int64_t> RawEtcd::del(const std::string& key) {
  raw::pb::DeleteRangeRequest request;
  request.set_key(key);
  raw::pb::DeleteRangeResponse response;
  if (!once([&](Node& at, auto& context) { return at.kv.DeleteRange(&context, request, &response); }))
    return {};
  return response.header().revision();
}

std::optional<std::int64_t> RawEtcd::put_all(const std::vector<std::pair<std::string, std::string>>& pairs) {
  raw::pb::TxnRequest request;
  for (const auto& [key, value] : pairs) {
    auto& put = *request.add_success()->mutable_request_put();
    put.set_key(key);
    put.set_value(value);
  }
  return txn(std::move(request));
}

std::optional<std::int64_t> RawEtcd::txn(raw::pb::TxnRequest request) {
  raw::pb::TxnResponse response;
  if (!once([&](Node& at, auto& context) { return at.kv.Txn(&context, request, &response); })) return {};
  return response.header().revision();
}

std::vector<RawEvent> RawEtcd::list(const std::string& prefix, std::int64_t* revision) {
  raw::pb::RangeRequest request;
  request.set_key(prefix);
  request.set_range_end(end_of_prefix(prefix));
  return list(std::move(request), revision);
}

std::vector<RawEvent> RawEtcd::list_at(const std::string& prefix, std::int64_t revision) {
  raw::pb::RangeRequest request;
  request.set_key(prefix);
  request.set_range_end(end_of_prefix(prefix));
  request.set_revision(revision);
  return list(std::move(request), nullptr);
}

std::vector<RawEvent> RawEtcd::list(raw::pb::RangeRequest request, std::int64_t* revision) {
  raw::pb::RangeResponse response;
  persist([&](Node& at, auto& context) { return at.kv.Range(&context, request, &response); });
  if (revision != nullptr) *revision = response.header().revision();
  std::vector<RawEvent> found;
  for (const auto& kv : response.kvs()) found.push_back(event_of(kv, false));
  return found;
}

std::int64_t RawEtcd::revision() {
  raw::pb::RangeRequest request;
  request.set_key("rig/revision");
  request.set_count_only(true);
  raw::pb::RangeResponse response;
  persist([&](Node& at, auto& context) { return at.kv.Range(&context, request, &response); });
  return response.header().revision();
}

bool RawEtcd::compact(std::int64_t revision) {
  raw::pb::CompactionRequest request;
  request.set_revision(revision);
  raw::pb::CompactionResponse response;
  return once([&](Node& at, auto& context) { return at.kv.Compact(&context, request, &response); });
}

std::optional<std::int64_t> RawEtcd::grant(std::chrono::seconds ttl, std::int64_t id) {
  raw::pb::LeaseGrantRequest request;
  request.set_ttl(ttl.count());
  request.set_id(id);
  raw::pb::LeaseGrantResponse response;
  if (!once([&](Node& at, auto& context) { return at.lease.LeaseGrant(&context, request, &response); }))
    return {};
  return response.id();
}

bool RawEtcd::revoke(std::int64_t lease) {
  raw::pb::LeaseRevokeRequest request;
  request.set_id(lease);
  raw::pb::LeaseRevokeResponse response;
  return once([&](Node& at, auto& context) { return at.lease.LeaseRevoke(&context, request, &response); });
}

std::vector<std::int64_t> RawEtcd::leases() {
  raw::pb::LeaseLeasesResponse response;
  persist([&](Node& at, auto& context) {
    return at.lease.LeaseLeases(&context, raw::pb::LeaseLeasesRequest(), &response);
  });
  std::vector<std::int64_t> ids;
  for (const auto& lease : response.leases()) ids.push_back(lease.id());
  return ids;
}

Oracle::Oracle(std::vector<std::string> endpoints, std::string prefix, RawLogin login)
    : endpoints_(std::move(endpoints)),
      prefix_(std::move(prefix)),
      // Within the range that is watched, and so in order with it, but no name that a test would choose.
      mark_(prefix_ + "~mark-" + std::to_string(std::random_device()())),
      login_(std::move(login)) {
  RawEtcd reader(endpoints_);
  if (!login_.user.empty()) reader.login(login_.user, login_.password);
  start_ = reader.revision();
  next_ = start_ + 1;
  thread_ = quiet_thread([this] { run(); });
}

Oracle::~Oracle() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
    if (context_) context_->TryCancel();
  }
  thread_.join();
}

std::string Oracle::token(const std::string& endpoint) const {
  if (login_.user.empty()) return {};
  RawEtcd session({endpoint});
  session.login(login_.user, login_.password);
  return session.token();
}

void Oracle::run() {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (const auto& endpoint : endpoints_) channels.push_back(open(endpoint));
  for (std::size_t turn = 0;; ++turn) {
    raw::rpc::Watch::Stub stub(channels[turn % channels.size()]);
    const auto context = std::make_shared<grpc::ClientContext>();
    context->AddMetadata("hasleader", "true");
    const std::string token_here = token(endpoints_[turn % endpoints_.size()]);
    if (!token_here.empty()) context->AddMetadata("token", token_here);
    raw::pb::WatchRequest request;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_ || !error_.empty()) return;
      context_ = context;
      auto& create = *request.mutable_create_request();
      create.set_key(prefix_);
      create.set_range_end(end_of_prefix(prefix_));
      create.set_start_revision(next_);
      create.set_fragment(true);
    }
    const auto stream = stub.Watch(context.get());
    stream->Write(request);
    std::vector<RawEvent> partial;
    raw::pb::WatchResponse answer;
    while (stream->Read(&answer)) {
      const std::lock_guard lock(mutex_);
      if (answer.canceled()) {
        if (answer.compact_revision() != 0) error_ = "the oracle fell behind a compaction";
        break;
      }
      for (const auto& event : answer.events())
        partial.push_back(event_of(event.kv(), event.type() == raw::pb::Event::DELETE));
      if (answer.fragment()) continue;
      std::int64_t last = next_ - 1;
      for (auto& event : partial) {
        if (event.mod_revision < next_)
          continue;  // servers repeat events after a partition (etcd issue 15271)
        last = event.mod_revision;
        if (event.key == mark_) {
          marked_ = last;
        } else {
          events_.push_back(std::move(event));
        }
      }
      partial.clear();
      next_ = last + 1;
      arrived_.notify_all();
    }
    context->TryCancel();
    stream->Finish();
    std::unique_lock lock(mutex_);
    arrived_.notify_all();
    arrived_.wait_for(lock, 20ms, [this] { return stopping_; });
  }
}

std::vector<RawEvent> Oracle::events() const {
  const std::lock_guard lock(mutex_);
  return events_;
}

std::vector<RawEvent> Oracle::take() {
  const std::lock_guard lock(mutex_);
  return std::exchange(events_, {});
}

std::int64_t Oracle::seen() const {
  const std::lock_guard lock(mutex_);
  return next_ - 1;
}

std::int64_t Oracle::marked() const {
  const std::lock_guard lock(mutex_);
  return marked_;
}

std::vector<RawEvent> Oracle::finish(std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  RawEtcd writer(endpoints_);
  if (!login_.user.empty()) writer.login(login_.user, login_.password);
  std::optional<std::int64_t> mark;
  while (!(mark = writer.put(mark_, ""))) {
    if (std::chrono::steady_clock::now() >= end)
      throw std::runtime_error("the oracle cannot write: " + writer.status().error_message());
    std::this_thread::sleep_for(50ms);
  }
  std::unique_lock lock(mutex_);
  arrived_.wait_until(lock, end, [&] { return marked_ >= *mark || !error_.empty(); });
  if (!error_.empty()) throw std::runtime_error(error_);
  if (marked_ < *mark) throw std::runtime_error("the oracle's mark did not arrive");
  std::vector<RawEvent> all = events_;
  lock.unlock();
  writer.del(mark_);
  return all;
}

std::map<std::string, RawEvent> Oracle::state(const std::vector<RawEvent>& before,
                                              const std::vector<RawEvent>& events) {
  std::map<std::string, RawEvent> all;
  const auto apply = [&](const RawEvent& event) {
    if (event.deleted) {
      all.erase(event.key);
    } else {
      all[event.key] = event;
    }
  };
  for (const auto& event : before) apply(event);
  for (const auto& event : events) apply(event);
  return all;
}

}  // namespace rig
