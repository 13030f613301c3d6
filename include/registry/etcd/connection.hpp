// What all calls of one Connector share: the members of the cluster and the choice among them, the calls in
// flight, and the end of it all.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
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

namespace registry::etcd::detail {

using registry::detail::Call;
using registry::detail::CallGuard;
using registry::detail::CallService;
using registry::detail::Home;
using registry::detail::TaskScope;

struct WatchHub;

/// Thread-safe, except `hub` and `tasks`, which live on `home`.
class Connection {
 public:
  using Clock = std::chrono::steady_clock;

  Connection(const asio::any_io_executor& user_executor, ConnectorConfig settings, Observer told)
      : config(std::move(settings)),
        observer(std::move(told)),
        executor(user_executor),
        home(Home::strand(user_executor)),
        tasks(home),
        choice_(config.endpoints.size(), random_.draw()) {
    const auto credentials = make_credentials(config);
    for (const auto& text : config.endpoints) {
      const std::string address = parse_endpoint(text)->authority();
      members_.push_back(std::make_unique<Member>(address, make_channel(config, address, credentials)));
    }
  }

  const ConnectorConfig config;
  const Observer observer;
  const Home executor;  // where the application wants the store to live
  const Home home;      // where the watches live
  TaskScope tasks;
  std::shared_ptr<WatchHub> hub;

  std::size_t size() const noexcept { return members_.size(); }
  bool logs_in() const noexcept { return !config.username.empty(); }
  Member& member(std::size_t index) noexcept { return *members_[index]; }

  std::size_t pick() {
    const std::lock_guard lock(mutex_);
    return choice_.pick(Clock::now());
  }
  void failed(std::size_t index) {
    const std::lock_guard lock(mutex_);
    choice_.failed(index, Clock::now(), random_.draw());
  }
  void succeeded(std::size_t index) {
    const std::lock_guard lock(mutex_);
    choice_.succeeded(index);
  }
  double draw() {
    const std::lock_guard lock(mutex_);
    return random_.draw();
  }

  /// Runs `work` with the member's token state under the lock.
  template <class Work>
  auto with_member(std::size_t index, Work work) {
    const std::lock_guard lock(mutex_);
    return work(*members_[index]);
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
  mutable std::mutex mutex_;
  registry::detail::Random random_;
  EndpointChoice choice_;
  std::vector<std::unique_ptr<Member>> members_;
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
