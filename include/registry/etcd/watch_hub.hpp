// All watches of a Connector share one stream: created in order, told apart by the id the server gives them.
#pragma once

#include <algorithm>
#include <asio/awaitable.hpp>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "registry/async/bidi_call.hpp"
#include "registry/async/mailbox.hpp"
#include "registry/etcd/calls.hpp"
#include "registry/etcd/member_sync.hpp"
#include "registry/policy/watch_assembly.hpp"

namespace registry::etcd::detail {

using WatchStream = registry::detail::BidiStream<pb::WatchRequest, pb::WatchResponse>;

/// One watch. Lives on the connection's home, except `out`, which is thread-safe.
struct Watcher {
  KeyRange range;
  WatchAssembly assembly;
  std::shared_ptr<registry::detail::Mailbox<Batch>> out;
  std::weak_ptr<WatchHub> hub;
  std::int64_t id = -1;                      // the server's; 0 is a valid one
  Connection::Clock::time_point answer_due;  // once its create was sent
  bool wanted = true;
  bool moved = false;  // to another stream, because its first one had an old token

  Watcher(KeyRange keys, std::int64_t from) : range(std::move(keys)), assembly(from) {}
};

/// One stream and its watchers. A hub whose stream has ended, or whose token no longer does for new watches,
/// takes no more of them: the next one opens the next hub, and those that run are not disturbed.
struct WatchHub {
  Try opened;                                    // at which member, with which token
  std::shared_ptr<WatchStream::Reactor> stream;  // set while it is open
  bool accepting = true;
  bool minded = false;                           // mind_creates runs
  Signal answered;                               // for it: fewer creates are open
  std::deque<std::shared_ptr<Watcher>> waiting;  // for the stream to open
  std::deque<std::shared_ptr<Watcher>>
      creating;  // sent; the answers come in this order and carry no other hint
  std::unordered_map<std::int64_t, std::shared_ptr<Watcher>> running;

  /// The oldest create that somebody still waits for.
  auto oldest_create() const {
    return std::find_if(creating.begin(), creating.end(),
                        [](const auto& watcher) { return watcher->wanted; });
  }
  bool idle() const { return waiting.empty() && running.empty() && oldest_create() == creating.end(); }
};

/// Batches that may wait for the consumer of one watch.
inline constexpr std::size_t max_unread = 1024;

/// Events of a message whose memory is used again; that of greater ones is given up.
inline constexpr int max_reused = 256;

inline void send_cancel(WatchHub& hub, std::int64_t id) {
  pb::WatchRequest request;
  request.mutable_cancel_request()->set_watch_id(id);
  hub.stream->write(std::move(request));
}

inline std::exception_ptr watch_error(const Member& member, errc code, const std::string& text) {
  return std::make_exception_ptr(
      std::system_error(make_error_code(code), "etcd " + member.address + ": Watch: " + text));
}

/// A hub that nobody needs ends its stream.
inline void end_if_idle(WatchHub& hub) {
  if (!hub.idle()) return;
  hub.accepting = false;
  if (hub.stream) hub.stream->cancel();
}

/// The member does not answer creates: their watchers turn elsewhere, those that run are not disturbed. The
/// places in the line stay, should an answer come after all.
inline void forsake_creates(Connection& connection, WatchHub& hub) {
  const Failure failure(connection, grpc::Status(grpc::StatusCode::DEADLINE_EXCEEDED,
                                                 "a new watch was not answered within request_timeout"));
  note_failure(connection, hub.opened, failure);
  hub.accepting = false;
  for (const auto& watcher : hub.creating) {
    watcher->wanted = false;
    watcher->out->close(watch_error(*hub.opened.member, failure.verdict.code, failure.text));
  }
  end_if_idle(hub);
}

/// Runs while creates are open, so that none waits for ever: pings only tell that the peer is there.
inline asio::awaitable<void> mind_creates(ConnectionPtr connection, std::shared_ptr<WatchHub> hub) {
  while (hub->stream && hub->oldest_create() != hub->creating.end()) {
    const auto due = (*hub->oldest_create())->answer_due;
    if (Connection::Clock::now() < due) {
      co_await hub->answered.wait_until(due);
    } else {
      forsake_creates(*connection, *hub);
    }
  }
  hub->minded = false;
}

inline void send_create(const ConnectionPtr& connection, const std::shared_ptr<WatchHub>& hub,
                        const std::shared_ptr<Watcher>& watcher) {
  pb::WatchRequest request;
  auto& create = *request.mutable_create_request();
  create.set_key(watcher->range.begin);
  create.set_range_end(watcher->range.end);
  create.set_start_revision(watcher->assembly.next());
  create.set_fragment(true);
  create.set_progress_notify(true);
  watcher->answer_due = Connection::Clock::now() + connection->config.request_timeout;
  hub->creating.push_back(watcher);
  hub->stream->write(std::move(request));
  if (!std::exchange(hub->minded, true)) connection->tasks.spawn(mind_creates(connection, hub));
}

inline std::exception_ptr closed_error() {
  return std::make_exception_ptr(
      std::system_error(make_error_code(errc::closed), "the etcd connector is closed"));
}

/// Ends every watcher of a hub, also when its coroutine is destroyed.
class HubEnd {
 public:
  HubEnd(ConnectionPtr connection, std::shared_ptr<WatchHub> hub)
      : connection_(std::move(connection)), hub_(std::move(hub)) {}
  HubEnd(const HubEnd&) = delete;
  HubEnd& operator=(const HubEnd&) = delete;
  ~HubEnd() {
    hub_->accepting = false;
    hub_->stream = nullptr;
    if (connection_->hub == hub_) connection_->hub = nullptr;
    for (const auto& watcher : hub_->waiting) watcher->out->close(error);
    for (const auto& watcher : hub_->creating) watcher->out->close(error);
    for (const auto& [id, watcher] : hub_->running) watcher->out->close(error);
    hub_->creating.clear();
    hub_->answered.raise();
  }

  std::exception_ptr error = closed_error();

 private:
  ConnectionPtr connection_;
  std::shared_ptr<WatchHub> hub_;
};

inline std::vector<Change> take_changes(pb::WatchResponse& message) {
  std::vector<Change> changes;
  changes.reserve(static_cast<std::size_t>(message.events_size()));
  for (auto& event : *message.mutable_events()) {
    auto& from = *event.mutable_kv();
    Change& change = changes.emplace_back();
    change.deleted = event.type() == pb::Event::DELETE;
    change.kv.key = std::move(*from.mutable_key());
    change.kv.mod_revision = from.mod_revision();
    if (change.deleted) continue;
    change.kv.value = std::move(*from.mutable_value());
    change.kv.create_revision = from.create_revision();
    change.kv.lease = from.lease();
  }
  return changes;
}

void attach(const ConnectionPtr& connection, const std::shared_ptr<Watcher>& watcher);

/// The answer to the oldest create that is open.
inline void on_created(const ConnectionPtr& owner, WatchHub& hub, const pb::WatchResponse& message) {
  Connection& connection = *owner;
  if (hub.creating.empty()) return;
  const auto watcher = std::move(hub.creating.front());
  hub.creating.pop_front();
  hub.answered.raise();
  if (message.canceled()) {
    const errc code =
        judge_watch_end(message.compact_revision(), message.cancel_reason(), connection.logs_in()).code;
    if (code == errc::invalid_token) {
      // The stream's token cannot be changed: new watches need a new stream. That is nobody's failure.
      hub.accepting = false;
      forget_token(connection, *hub.opened.member, hub.opened.token);
      if (!std::exchange(watcher->moved, true)) return attach(owner, watcher);
    }
    watcher->out->close(watch_error(*hub.opened.member, code, quote(message.cancel_reason(), 300)));
    return;
  }
  watcher->id = message.watch_id();
  if (const auto taken = hub.running.find(watcher->id); taken != hub.running.end()) {
    // Nobody knows whose events follow under this id: both begin again, on another stream.
    const auto error = watch_error(*hub.opened.member, errc::protocol_error,
                                   "two watches were given the id " + std::to_string(watcher->id));
    hub.accepting = false;
    watcher->out->close(error);
    taken->second->out->close(error);
    hub.running.erase(taken);
    return;
  }
  if (!watcher->wanted) return send_cancel(hub, watcher->id);
  hub.running[watcher->id] = watcher;
  Batch first;
  first.store_id = std::to_string(message.header().cluster_id());
  first.head = message.header().revision();
  first.through = watcher->assembly.next() - 1;
  watcher->out->push(std::move(first));
}

inline void on_canceled(Connection& connection, WatchHub& hub, const pb::WatchResponse& message) {
  const auto found = hub.running.find(message.watch_id());
  if (found == hub.running.end()) return;
  const auto watcher = std::move(found->second);
  hub.running.erase(found);
  const errc code =
      judge_watch_end(message.compact_revision(), message.cancel_reason(), connection.logs_in()).code;
  const std::string text = message.compact_revision() != 0
                               ? "compacted at revision " + std::to_string(message.compact_revision())
                               : quote(message.cancel_reason(), 300);
  watcher->out->close(watch_error(*hub.opened.member, code, text));
}

inline void on_answer(WatchHub& hub, pb::WatchResponse& message) {
  const auto found = hub.running.find(message.watch_id());
  if (found == hub.running.end()) return;
  Watcher& watcher = *found->second;
  const std::int64_t head = message.header().revision();
  std::optional<Batch> batch = message.events_size() > 0
                                   ? watcher.assembly.events(head, message.fragment(), take_changes(message))
                                   : watcher.assembly.progress(head);
  if (!batch) return;
  batch->store_id = std::to_string(message.header().cluster_id());
  watcher.out->push(std::move(*batch));
  if (watcher.out->size() < max_unread) return;
  // The others on the stream must not wait for this one, and the queue must not grow for ever.
  watcher.out->close(watch_error(*hub.opened.member, errc::unavailable,
                                 "its consumer fell behind; resume after the last batch"));
  send_cancel(hub, watcher.id);
  hub.running.erase(found);
}

/// Opens the stream and passes on what comes, until it breaks or nobody is left.
inline asio::awaitable<void> run_hub(ConnectionPtr connection, std::shared_ptr<WatchHub> hub) {
  HubEnd end(connection, hub);
  const SyncedStream synced(connection);
  Try& opened = hub->opened;
  opened.member = connection->pick();
  opened.deadline = Connection::Clock::now() + connection->config.request_timeout;
  std::optional<Failure> failure = co_await authenticate(connection, opened.member, opened.deadline);
  if (!failure) {
    opened.token = connection->with_member(*opened.member, [](Member& at) { return at.token; });
    auto call = std::make_shared<WatchStream::Reactor>();
    opened.prepare_unbounded(call->context);
    auto* const stub = opened.member->watch.get();
    const WatchStream stream(co_await asio::this_coro::executor, call,
                             [stub](auto& reactor) { stub->async()->Watch(&reactor.context, &reactor); });
    hub->stream = call;
    for (const auto& watcher : std::exchange(hub->waiting, {})) send_create(connection, hub, watcher);
    bool heard = false;
    while (!hub->idle()) {
      std::optional<pb::WatchResponse> message = co_await stream->read();
      if (!message) {
        if (!hub->idle()) failure.emplace(*connection, stream->status());
        break;
      }
      if (!std::exchange(heard, true)) connection->succeeded(*opened.member);
      if (message->created()) {
        on_created(connection, *hub, *message);
      } else if (message->canceled()) {
        on_canceled(*connection, *hub, *message);
      } else {
        on_answer(*hub, *message);
        if (message->events_size() <= max_reused) stream->give_back(std::move(*message));
      }
    }
  }
  if (!failure) co_return;
  note_failure(*connection, opened, *failure);
  if (failure->text.empty()) failure->text = "the stream ended";
  end.error = watch_error(*opened.member, failure->verdict.code, quote(failure->text, 300));
}

/// On the home.
inline void attach(const ConnectionPtr& connection, const std::shared_ptr<Watcher>& watcher) {
  if (!watcher->wanted) return;
  if (connection->closed()) {
    watcher->out->close(closed_error());
    return;
  }
  if (!connection->hub || !connection->hub->accepting) {
    connection->hub = std::make_shared<WatchHub>();
    watcher->hub = connection->hub;
    connection->hub->waiting.push_back(watcher);
    connection->tasks.spawn(run_hub(connection, connection->hub));
    return;
  }
  watcher->hub = connection->hub;
  if (connection->hub->stream) {
    send_create(connection, connection->hub, watcher);
  } else {
    connection->hub->waiting.push_back(watcher);
  }
}

/// On the home.
inline void detach(const std::shared_ptr<Watcher>& watcher) {
  watcher->wanted = false;
  const auto hub = watcher->hub.lock();
  if (!hub) return;
  std::erase(hub->waiting, watcher);
  hub->answered.raise();
  const auto found = hub->running.find(watcher->id);
  if (found != hub->running.end() && found->second == watcher) {
    hub->running.erase(found);
    if (hub->stream) send_cancel(*hub, watcher->id);
  }
  end_if_idle(*hub);
}

/// A watch as a Generator: attached at its first use, detached when its consumer is gone.
inline Generator<Batch> watch(const ConnectionPtr& connection, KeyRange range, std::int64_t from) {
  auto watcher = std::make_shared<Watcher>(std::move(range), from);
  // The mailbox owns the watcher through its callbacks, the hub owns both; the watcher owns the mailbox: the
  // cycle is cut when the generator goes away (its callbacks are then released).
  const Home home = connection->home;
  auto start = [connection, watcher] {
    if (!connection->home.post([connection, watcher] { attach(connection, watcher); }))
      watcher->out->close(closed_error());
  };
  auto stop = [home, watcher] { home.post([watcher] { detach(watcher); }); };
  watcher->out = std::make_shared<registry::detail::Mailbox<Batch>>(std::move(start), std::move(stop));
  return Generator<Batch>(watcher->out);
}

}  // namespace registry::etcd::detail
