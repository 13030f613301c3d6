// A fake etcd in this process, for what a real one will not do on demand. A test with it reads like a
// transcript:
//   ScriptedEtcd server;
//   auto stream = server.next_watch_stream();
//   CHECK(stream.expect_create().start_revision() == 11);
//   stream.send(created(0, 10));
//   stream.send(events(0, 10, {put("a", 11), del("b", 12)}));
//   stream.end(grpc::Status(grpc::StatusCode::UNAVAILABLE, "etcdserver: no leader"));
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>
#include <grpcpp/support/status.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "registry/etcd/stub.hpp"

namespace rig {

/// The messages of the fake's lines.
namespace script {

namespace pb = ::registry::etcdpb;

pb::Event put(const std::string& key, std::int64_t revision, const std::string& value = "v");
pb::Event del(const std::string& key, std::int64_t revision);

pb::WatchResponse created(std::int64_t id, std::int64_t head);
pb::WatchResponse events(std::int64_t id, std::int64_t head, const std::vector<pb::Event>& events,
                         bool fragment = false);
/// `id` -1: of the whole stream.
pb::WatchResponse progress(std::int64_t id, std::int64_t head);
/// A create that failed; servers before 3.4.22 and 3.5.6 may give it an id that is in use.
pb::WatchResponse refused(std::int64_t head, const std::string& reason, std::int64_t id = -1);
pb::WatchResponse canceled(std::int64_t id, const std::string& reason = {});
/// As etcd says it: without a revision in the header, without a reason.
pb::WatchResponse compacted(std::int64_t id, std::int64_t revision);
pb::LeaseKeepAliveResponse renewed(std::int64_t lease, std::int64_t ttl);

inline grpc::Status unavailable(const std::string& text = "the script says so") {
  return grpc::Status(grpc::StatusCode::UNAVAILABLE, text);
}

}  // namespace script

/// Something the script expects did not come in time.
struct NotInTime : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline constexpr std::chrono::seconds script_patience{10};

namespace detail {

/// A stream as gRPC sees it; it keeps itself until gRPC is done with it. Thread-safe.
template <class Request, class Response>
class StreamReactor final : public grpc::ServerBidiReactor<Request, Response> {
 public:
  using OnRequest = std::function<void(StreamReactor&, const Request&)>;

  /// `answer` is called for each request; without it they wait for next().
  static std::shared_ptr<StreamReactor> open(const grpc::CallbackServerContext& context, OnRequest answer) {
    const auto stream = std::make_shared<StreamReactor>();
    stream->self_ = stream;
    stream->answer_ = std::move(answer);
    for (const auto& [key, value] : context.client_metadata())
      stream->metadata_.emplace_back(std::string(key.data(), key.size()),
                                     std::string(value.data(), value.size()));
    stream->StartRead(&stream->incoming_);
    return stream;
  }

  std::optional<Request> next(std::chrono::milliseconds limit) {
    std::unique_lock lock(mutex_);
    arrived_.wait_for(lock, limit, [this] { return !inbox_.empty() || ended_; });
    if (inbox_.empty()) return std::nullopt;
    std::optional<Request> request(std::move(inbox_.front()));
    inbox_.pop_front();
    return request;
  }

  void write(Response message) {
    const std::lock_guard lock(mutex_);
    if (last_) return;
    outgoing_.push_back(std::move(message));
    if (outgoing_.size() == 1) this->StartWrite(&outgoing_.front());
  }

  /// Behind what was written. The first end counts.
  void finish(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (last_) return;
    last_ = status;
    if (outgoing_.empty()) finish_now();
  }

  bool ended() const {
    const std::lock_guard lock(mutex_);
    return ended_;
  }

  std::string metadata(const std::string& wanted) const {
    for (const auto& [key, value] : metadata_) {
      if (key == wanted) return value;
    }
    return {};
  }

 private:
  void finish_now() {
    finished_ = true;
    this->Finish(*last_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;  // the end of the stream is told by OnCancel or OnDone
    Request request;
    {
      const std::lock_guard lock(mutex_);
      request.Swap(&incoming_);
      if (!answer_) inbox_.push_back(request);
    }
    arrived_.notify_all();
    if (answer_) answer_(*this, request);
    const std::lock_guard lock(mutex_);
    if (!finished_) this->StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    outgoing_.pop_front();
    if (!ok) outgoing_.clear();
    if (!outgoing_.empty()) {
      this->StartWrite(&outgoing_.front());
    } else if (last_) {
      finish_now();
    }
  }

  void OnCancel() override {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    arrived_.notify_all();
    finish(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone"));
  }

  void OnDone() override {
    const auto self = std::move(self_);
    const std::lock_guard lock(mutex_);
    ended_ = true;
    arrived_.notify_all();
  }

  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::shared_ptr<StreamReactor> self_;
  OnRequest answer_;
  std::vector<std::pair<std::string, std::string>> metadata_;
  Request incoming_;
  std::deque<Request> inbox_;
  std::deque<Response> outgoing_;  // the front one is being written
  std::optional<grpc::Status> last_;
  bool finished_ = false, ended_ = false;
};

/// A unary call, answered or left alone until its client gives up.
class UnaryReactor final : public grpc::ServerUnaryReactor {
 public:
  void answer(const grpc::Status& status) {
    {
      const std::lock_guard lock(mutex_);
      if (std::exchange(finished_, true)) return;
    }
    Finish(status);
  }

 private:
  void OnCancel() override { answer(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

  std::mutex mutex_;
  bool finished_ = false;
};

}  // namespace detail

/// The server's end of a stream. A handle; the stream stays open without it.
template <class Request, class Response>
class ScriptedStream {
 public:
  using Reactor = detail::StreamReactor<Request, Response>;

  ScriptedStream(std::shared_ptr<Reactor> stream, std::uint64_t cluster)
      : stream_(std::move(stream)), cluster_(cluster) {}

  /// The next request. Throws NotInTime.
  Request expect(std::chrono::milliseconds limit = script_patience) {
    auto request = stream_->next(limit);
    if (!request) throw NotInTime("a request on a stream");
    return std::move(*request);
  }

  /// The header names our cluster unless it names one already.
  void send(Response message) {
    auto& header = *message.mutable_header();
    if (header.cluster_id() == 0) header.set_cluster_id(cluster_);
    stream_->write(std::move(message));
  }

  /// Ends the stream behind what was sent.
  void end(const grpc::Status& status = grpc::Status::OK) { stream_->finish(status); }

  /// The stream is over, by us or because the client has gone.
  bool ended() const { return stream_->ended(); }

  /// What the client sent as metadata, such as "token".
  std::string metadata(const std::string& key) const { return stream_->metadata(key); }

 private:
  std::shared_ptr<Reactor> stream_;
  std::uint64_t cluster_;
};

using RenewalStream = ScriptedStream<script::pb::LeaseKeepAliveRequest, script::pb::LeaseKeepAliveResponse>;

class WatchStream : public ScriptedStream<script::pb::WatchRequest, script::pb::WatchResponse> {
 public:
  using ScriptedStream::ScriptedStream;

  script::pb::WatchCreateRequest expect_create(std::chrono::milliseconds limit = script_patience) {
    const auto request = expect(limit);
    if (!request.has_create_request()) throw NotInTime("a create_request; another request came");
    return request.create_request();
  }
  /// The id that is canceled.
  std::int64_t expect_cancel(std::chrono::milliseconds limit = script_patience) {
    const auto request = expect(limit);
    if (!request.has_cancel_request()) throw NotInTime("a cancel_request; another request came");
    return request.cancel_request().watch_id();
  }
};

/// How one unary method is answered: by the fake's small store, unless the script says otherwise.
/// Thread-safe.
template <class Request, class Response>
class UnaryScript {
 public:
  using Answer = std::function<grpc::Status(const Request&, Response&)>;

  explicit UnaryScript(Answer usual) : usual_(std::move(usual)) {}

  /// The next call gets this answer; several of them queue.
  void answer_next(Answer answer) { add(Step{std::move(answer), true}); }
  void fail_next(const grpc::Status& status) {
    answer_next([status](const Request&, Response&) { return status; });
  }
  /// The next call gets what the store says, changed.
  void change_next(std::function<void(Response&)> change) {
    answer_next([usual = usual_, change = std::move(change)](const Request& request, Response& response) {
      const grpc::Status status = usual(request, response);
      change(response);
      return status;
    });
  }
  /// The next call is never answered; the store does not see it.
  void ignore_next() { add(Step{{}, false}); }
  /// The next call takes effect, and is never answered.
  void lose_next() { add(Step{usual_, false}); }
  /// Calls that no step is left for: never answered, or as usual again.
  void ignore_all(bool ignore = true) {
    const std::lock_guard lock(mutex_);
    ignore_all_ = ignore;
  }

  /// All requests so far.
  std::vector<Request> requests() const {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  std::size_t calls() const { return requests().size(); }

  grpc::ServerUnaryReactor* serve(const Request& request, Response& response) {
    Step step{usual_, true};
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(request);
      if (!steps_.empty()) {
        step = std::move(steps_.front());
        steps_.pop_front();
      } else if (ignore_all_) {
        step = Step{{}, false};
      }
    }
    auto* const call = new detail::UnaryReactor;
    const grpc::Status status = step.answer ? step.answer(request, response) : grpc::Status::OK;
    if (step.answered) call->answer(status);
    return call;
  }

 private:
  struct Step {
    Answer answer;  // empty: none
    bool answered;
  };

  void add(Step step) {
    const std::lock_guard lock(mutex_);
    steps_.push_back(std::move(step));
  }

  const Answer usual_;
  mutable std::mutex mutex_;
  std::deque<Step> steps_;
  bool ignore_all_ = false;
  std::vector<Request> requests_;
};

/// One member, on a port of its own. Reads, guarded transactions and leases are served from a small store
/// without history (a list at an old revision shows the present, nothing ever expires); watches do only what
/// the script says. Members that are to pass for one cluster get the same `cluster`. Whatever is open when it
/// is destroyed is cancelled.
class ScriptedEtcd {
  struct Parts;
  std::unique_ptr<Parts> parts_;  // before the members that refer to it

 public:
  explicit ScriptedEtcd(std::uint64_t cluster = 7, std::int64_t head = 10);
  ~ScriptedEtcd();
  ScriptedEtcd(const ScriptedEtcd&) = delete;
  ScriptedEtcd& operator=(const ScriptedEtcd&) = delete;

  std::string endpoint() const;

  /// In the order in which clients opened them, each once. Throw NotInTime.
  WatchStream next_watch_stream(std::chrono::milliseconds limit = script_patience);
  /// Only while renewals are scripted.
  RenewalStream next_renewal(std::chrono::milliseconds limit = script_patience);
  /// Whether renewals wait for next_renewal(); else they are answered from the store.
  void script_renewals(bool scripted = true);

  /// Sends GOAWAY on every connection and accepts new ones on the same port. Streams that are open go on
  /// until `grace` is over.
  void go_away(std::chrono::milliseconds grace = std::chrono::seconds(10));

  // --- the store

  /// The revision it got: the next one, or the one given.
  std::int64_t put(const std::string& key, const std::string& value, std::int64_t revision = 0);
  std::int64_t del(const std::string& key);
  std::optional<script::pb::KeyValue> entry(const std::string& key) const;
  std::int64_t head() const;
  void set_head(std::int64_t revision);
  void set_cluster(std::uint64_t cluster);
  /// Ends a lease, and its keys.
  void expire(std::int64_t lease);
  std::vector<std::int64_t> leases() const;

  // --- the unary calls

  UnaryScript<script::pb::RangeRequest, script::pb::RangeResponse> range;
  UnaryScript<script::pb::PutRequest, script::pb::PutResponse> puts;
  UnaryScript<script::pb::TxnRequest, script::pb::TxnResponse> txn;
  UnaryScript<script::pb::LeaseGrantRequest, script::pb::LeaseGrantResponse> grant;
  UnaryScript<script::pb::LeaseRevokeRequest, script::pb::LeaseRevokeResponse> revoke;
  UnaryScript<script::pb::AuthenticateRequest, script::pb::AuthenticateResponse> authenticate;
};

}  // namespace rig
