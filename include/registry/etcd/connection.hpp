// What all calls of one Connector share: the members of the cluster and the choice among them, the calls in
// flight, and the end of it all.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "registry/async/call_service.hpp"
#include "registry/async/clock.hpp"
#include "registry/async/home.hpp"
#include "registry/async/task_scope.hpp"
#include "registry/etcd/member.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/endpoint_choice.hpp"
#include "registry/policy/member_roster.hpp"

namespace registry::etcd::detail {

using registry::detail::Call;
using registry::detail::CallGuard;
using registry::detail::CallService;
using registry::detail::Home;
using registry::detail::TaskScope;

struct WatchHub;

inline std::vector<std::string> addresses_of(const ConnectorConfig& config) {
  std::vector<std::string> addresses;
  for (const auto& text : config.endpoints) addresses.push_back(parse_endpoint(text)->authority());
  return addresses;
}

/// How far auto-sync has come; see member_sync.hpp.
struct MemberSync {
  MemberRoster roster;
  SyncPace pace;
  std::chrono::steady_clock::time_point due = std::chrono::steady_clock::time_point::min();
  bool running = false;     // sync_members is
  bool told = false;        // that the last lists could not be had
  std::size_t streams = 0;  // watches are open: the time is kept for them
  Signal no_streams;

  explicit MemberSync(const ConnectorConfig& config)
      : roster(addresses_of(config), config.tls.has_value()), pace(config.auto_sync_interval) {}
};

/// Thread-safe, except `hub`, `sync` and `tasks`, which live on `home`.
class Connection {
 public:
  using Clock = std::chrono::steady_clock;

  Connection(const asio::any_io_executor& user_executor, ConnectorConfig settings, Observer told)
      : config(std::move(settings)),
        observer(std::move(told)),
        executor(user_executor),
        home(Home::strand(user_executor)),
        tasks(home),
        sync(config),
        credentials_(make_credentials(config)),
        choice_(config.endpoints.size(), random_.draw()),
        sync_due_(config.auto_sync_interval.count() > 0 ? sync.due : never) {
    for (auto& address : addresses_of(config)) members_.push_back(make_member(std::move(address)));
    count_ = members_.size();
  }

  const ConnectorConfig config;
  const Observer observer;
  const Home executor;  // where the application wants the store to live
  const Home home;      // where the watches live
  TaskScope tasks;
  std::shared_ptr<WatchHub> hub;
  MemberSync sync;

  /// How many endpoints there are to choose from.
  std::size_t size() const noexcept { return count_; }
  bool logs_in() const noexcept { return !config.username.empty(); }

  /// Whoever uses a member owns it, too: it may be given up meanwhile.
  MemberPtr pick() {
    const std::lock_guard lock(mutex_);
    return members_[choice_.pick(Clock::now())];
  }
  void failed(const Member& member) {
    const std::lock_guard lock(mutex_);
    if (const auto at = place_of(member)) choice_.failed(*at, Clock::now(), random_.draw());
  }
  void succeeded(const Member& member) {
    const std::lock_guard lock(mutex_);
    if (const auto at = place_of(member)) choice_.succeeded(*at);
  }

  MemberPtr make_member(std::string address) const {
    auto channel = make_channel(config, address, credentials_);
    return std::make_shared<Member>(std::move(address), channel);
  }
  /// One more to choose from.
  void add(MemberPtr member) {
    const std::lock_guard lock(mutex_);
    members_.push_back(std::move(member));
    choice_.add();
    count_ = members_.size();
  }
  /// Of those that were added. What is under way there goes on.
  void remove(const std::string& address) {
    MemberPtr gone;  // let go of behind the lock
    const std::lock_guard lock(mutex_);
    for (std::size_t at = config.endpoints.size(); at < members_.size(); ++at) {
      if (members_[at]->address != address) continue;
      gone = std::move(members_[at]);
      members_.erase(members_.begin() + static_cast<std::ptrdiff_t>(at));
      choice_.remove(at);
      break;
    }
    count_ = members_.size();
  }

  /// Whether it is time to ask for the members. True for one caller, who then sees to it.
  bool claims_sync(Clock::time_point now) noexcept {
    auto due = sync_due_.load();
    return due <= now && sync_due_.compare_exchange_strong(due, never);
  }
  void sync_again_at(Clock::time_point due) noexcept { sync_due_ = due; }

  double draw() {
    const std::lock_guard lock(mutex_);
    return random_.draw();
  }

  /// Runs `work` with the member's token state under the lock.
  template <class Work>
  auto with_member(Member& member, Work work) {
    const std::lock_guard lock(mutex_);
    return work(member);
  }

  /// The newest revision a cluster has shown; a linearizable read below it is stale (etcd issue 20418).
  bool goes_back(std::uint64_t cluster, std::int64_t revision) {
    const std::lock_guard lock(mutex_);
    std::int64_t& newest = newest_[cluster];
    if (revision < newest) return true;
    newest = revision;
    return false;
  }
  /// The cluster really went back: it was restored or wiped.
  void accept_revision(std::uint64_t cluster, std::int64_t revision) {
    const std::lock_guard lock(mutex_);
    newest_[cluster] = revision;
  }

  /// A call that cancel() must reach. False when closed.
  bool enter(const std::shared_ptr<Call>& call) {
    const std::lock_guard lock(mutex_);
    if (closed_) return false;
    in_flight_.emplace(call.get(), call);
    return true;
  }
  void leave(const std::shared_ptr<Call>& call) noexcept {
    const std::lock_guard lock(mutex_);
    in_flight_.erase(call.get());
  }

  bool closed() const noexcept { return closed_; }

  /// Ends the unary calls and refuses new ones; true the first time.
  bool close_calls() {
    std::vector<std::shared_ptr<Call>> calls;
    {
      const std::lock_guard lock(mutex_);
      if (closed_.exchange(true)) return false;
      for (const auto& [key, weak] : in_flight_) {
        if (auto call = weak.lock()) calls.push_back(std::move(call));
      }
    }
    for (const auto& call : calls) call->cancel();
    return true;
  }

 private:
  static constexpr Clock::time_point never = Clock::time_point::max();

  /// Empty: given up. A few members at the most.
  std::optional<std::size_t> place_of(const Member& member) const {
    const auto found = std::find_if(members_.begin(), members_.end(),
                                    [&](const auto& each) { return each.get() == &member; });
    if (found == members_.end()) return std::nullopt;
    return static_cast<std::size_t>(found - members_.begin());
  }

  const std::shared_ptr<grpc::ChannelCredentials> credentials_;
  mutable std::mutex mutex_;
  registry::detail::Random random_;
  EndpointChoice choice_;
  std::vector<MemberPtr> members_;  // those configured, then those added; as choice_ has them
  std::atomic<std::size_t> count_ = 0;
  std::atomic<Clock::time_point> sync_due_;
  std::unordered_map<std::uint64_t, std::int64_t> newest_;
  std::unordered_map<Call*, std::weak_ptr<Call>> in_flight_;
  std::atomic<bool> closed_ = false;
};

/// Keeps a call in the reach of Connection::close_calls while it runs.
class InFlight {
 public:
  InFlight(std::shared_ptr<Connection> connection, std::shared_ptr<Call> call)
      : connection_(std::move(connection)), call_(std::move(call)) {
    if (!connection_->enter(call_)) registry::detail::fail(errc::closed, "the etcd connector is closed");
  }
  InFlight(const InFlight&) = delete;
  InFlight& operator=(const InFlight&) = delete;
  ~InFlight() { connection_->leave(call_); }

 private:
  std::shared_ptr<Connection> connection_;
  std::shared_ptr<Call> call_;
};

}  // namespace registry::etcd::detail
