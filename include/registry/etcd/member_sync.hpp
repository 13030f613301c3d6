// Auto-sync: the cluster is asked for its members while the connection is in use, and those that answer us are
// used beside the endpoints that are configured.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/error.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>

#include "registry/etcd/calls.hpp"

namespace registry::etcd::detail {

inline void note(const Connection& connection, LogLevel level, const std::string& text) {
  if (!text.empty() && !connection.closed()) connection.observer.log(level, text);
}

/// Asks an address that was learned, itself: it is used once it has answered as one of our cluster.
inline asio::awaitable<void> ask_address(ConnectionPtr connection, std::string address) {
  Try now;
  now.member = connection->make_member(address);
  now.deadline = Connection::Clock::now() + connection->config.request_timeout;
  auto response = std::make_shared<pb::MemberListResponse>();
  std::optional<Failure> failure = co_await authenticate(connection, now.member, now.deadline);
  if (!failure) {
    now.token = connection->with_member(*now.member, [](Member& at) { return at.token; });
    const UnaryAttempt attempt(connection, std::make_shared<const pb::MemberListRequest>(), response,
                               StartMemberList());
    const grpc::Status status = co_await attempt(now);
    if (!status.ok()) failure.emplace(*connection, status);
  }
  MemberRoster& roster = connection->sync.roster;
  const auto admission = failure ? roster.silent(address, quote(failure->text, 300))
                                 : roster.answered(address, response->header().cluster_id());
  if (admission.use) connection->add(now.member);
  note(*connection, LogLevel::Info, admission.note);
}

/// Asks any member for the list.
inline asio::awaitable<MemberAnswer> ask_for_members(ConnectionPtr connection) {
  pb::MemberListRequest request;
  request.set_linearizable(true);  // a member that has lost touch does not answer from etcd 3.5 on
  auto from = std::make_shared<std::string>();
  auto start = [from](Member& at, auto& call, auto done) {
    *from = at.address;
    StartMemberList()(at, call, std::move(done));
  };
  auto asking = unary<pb::MemberListResponse>(connection, "MemberList", Effect::Repeatable,
                                              std::move(request), std::move(start));
  pb::MemberListResponse response = co_await std::move(asking);
  MemberAnswer answer;
  answer.from = *from;
  answer.cluster = response.header().cluster_id();
  answer.member = response.header().member_id();
  for (auto& each : *response.mutable_members()) {
    ListedMember& member = answer.members.emplace_back();
    member.id = each.id();
    member.learner = each.is_learner();
    for (auto& url : *each.mutable_client_urls()) member.client_urls.push_back(std::move(url));
  }
  co_return answer;
}

/// Asks for the list and does what it leads to. False: worth another look soon.
inline asio::awaitable<bool> sync_once(ConnectionPtr connection) {
  MemberSync& sync = connection->sync;
  try {
    const MemberAnswer answer = co_await ask_for_members(connection);
    sync.told = false;
    const MemberRoster::Step step = sync.roster.listed(answer);
    for (const auto& address : step.drop) connection->remove(address);
    for (const auto& text : step.notes) note(*connection, LogLevel::Info, text);
    for (const auto& address : step.ask) connection->tasks.spawn(ask_address(connection, address));
    co_return step.settled;
  } catch (const std::system_error& error) {
    if (error.code() == asio::error::operation_aborted || connection->closed()) throw;
    const bool refused = !is_retryable(error.code());
    if (!std::exchange(sync.told, true)) {
      note(*connection, refused ? LogLevel::Warning : LogLevel::Info,
           std::string("the members of the cluster cannot be asked for, those known stay in use: ") +
               error.what());
    }
    co_return refused;
  }
}

/// Ends the run of sync_members, also when it is destroyed.
class SyncRun {
 public:
  explicit SyncRun(ConnectionPtr connection) : connection_(std::move(connection)) {}
  SyncRun(const SyncRun&) = delete;
  SyncRun& operator=(const SyncRun&) = delete;
  ~SyncRun() { connection_->sync.running = false; }

 private:
  const ConnectionPtr connection_;
};

/// Asks whenever it is time. Between two times it waits only while watches are open: without them nothing
/// would end the wait, and the application's context would run on for our sake. Then the first call
/// after the time begins it anew.
inline asio::awaitable<void> sync_members(ConnectionPtr connection) {
  using Clock = Connection::Clock;
  const SyncRun run(connection);
  MemberSync& sync = connection->sync;
  for (;;) {
    while (sync.streams > 0 && Clock::now() < sync.due) co_await sync.no_streams.wait_until(sync.due);
    if (Clock::now() < sync.due) co_return;
    const bool settled = co_await sync_once(connection);
    sync.due = Clock::now() + sync.pace.pause(settled, connection->draw());
    connection->sync_again_at(sync.due);
  }
}

/// On the home.
inline void run_sync(const ConnectionPtr& connection) {
  if (!std::exchange(connection->sync.running, true)) connection->tasks.spawn(sync_members(connection));
}

inline void begin_sync(const ConnectionPtr& connection) {
  connection->home.post([connection] { run_sync(connection); });
}

/// A stream of watches is open: the members are asked for as long as it is. On the home.
class SyncedStream {
 public:
  explicit SyncedStream(ConnectionPtr connection) : connection_(std::move(connection)) {
    ++connection_->sync.streams;
    if (connection_->config.auto_sync_interval.count() > 0) run_sync(connection_);
  }
  SyncedStream(const SyncedStream&) = delete;
  SyncedStream& operator=(const SyncedStream&) = delete;
  ~SyncedStream() {
    if (--connection_->sync.streams == 0) connection_->sync.no_streams.raise();
  }

 private:
  const ConnectionPtr connection_;
};

}  // namespace registry::etcd::detail
