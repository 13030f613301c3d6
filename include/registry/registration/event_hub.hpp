// Tells any number of consumers what becomes of our registrations.
#pragma once

#include <asio/awaitable.hpp>
#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/generator.hpp"
#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"
#include "registry/model/registration.hpp"
#include "registry/observe/observer.hpp"

namespace registry::detail {

/// The queue of one consumer. When it is full only the newest event of each id stays. Thread-safe.
class RegistrationQueue : public GeneratorSource<RegistrationEvent> {
 public:
  explicit RegistrationQueue(std::function<void()> on_start) : on_start_(std::move(on_start)) {}

  void push(const RegistrationEvent& event) {
    {
      const std::lock_guard lock(mutex_);
      if (closed_) return;
      if (events_.size() >= room_) fold();
      events_.push_back(event);
    }
    filled_.raise();
  }

  void close() noexcept {
    {
      const std::lock_guard lock(mutex_);
      closed_ = true;
    }
    filled_.raise();
  }

  void start() override { std::exchange(on_start_, nullptr)(); }
  std::optional<RegistrationEvent> try_next() override {
    const std::lock_guard lock(mutex_);
    if (events_.empty()) return std::nullopt;
    std::optional<RegistrationEvent> event(std::move(events_.front()));
    events_.pop_front();
    return event;
  }
  bool ended() const override {
    const std::lock_guard lock(mutex_);
    return closed_ && events_.empty();
  }
  asio::awaitable<void> wait(WaitDeadline deadline) override {
    while (!ready() && WaitDeadline::clock::now() < deadline) co_await filled_.wait_until(deadline);
  }
  void cancel() noexcept override { close(); }

 private:
  static constexpr std::size_t capacity = 1024;

  bool ready() const {
    const std::lock_guard lock(mutex_);
    return closed_ || !events_.empty();
  }

  void fold() {
    std::set<std::string_view> newer;
    std::deque<RegistrationEvent> kept;
    for (auto event = events_.rbegin(); event != events_.rend(); ++event) {
      if (newer.insert(event->id).second) kept.push_front(*event);
    }
    // One event for each id that lives; those of ids that are gone must not pile up.
    std::size_t surplus = kept.size() < capacity ? 0 : kept.size() - capacity + 1;
    std::erase_if(kept, [&surplus](const RegistrationEvent& event) {
      return surplus > 0 && event.state == RegistrationState::Closed && surplus-- > 0;
    });
    // A fold costs as much as there is: not again before as much has been added.
    room_ = std::max(capacity, 2 * kept.size());
    newer.clear();
    events_ = std::move(kept);
  }

  mutable std::mutex mutex_;
  std::deque<RegistrationEvent> events_;
  std::size_t room_ = capacity;  // events to hold before the next fold
  bool closed_ = false;
  Signal filled_;
  std::function<void()> on_start_;
};

/// Lives on the strand `home`; subscribe() may be called from any thread.
class EventHub : public std::enable_shared_from_this<EventHub> {
 public:
  EventHub(Home home, Observer observer) : home_(std::move(home)), observer_(std::move(observer)) {}

  void emit(RegistrationState state, const std::string& id, std::error_code reason = {}) {
    const RegistrationEvent event(state, id, reason);
    const auto known = current_.find(id);
    const bool was_there = known != current_.end() && is_there(known->second.state);
    if (state == RegistrationState::Closed) {
      if (known == current_.end()) return;  // nobody was told that it was there
      current_.erase(known);
    } else {
      current_.insert_or_assign(id, event);
    }
    if (was_there != is_there(state)) {
      observer_.count(metric::registered_instances, {}, was_there ? -1 : 1);
    }
    std::erase_if(queues_, [&](const auto& weak) {
      const auto queue = weak.lock();
      if (queue) queue->push(event);
      return queue == nullptr;
    });
  }

  /// The current states, then every change. A consumer joins at its first use of the Generator.
  Generator<RegistrationEvent> subscribe() {
    const auto handle = std::make_shared<std::weak_ptr<RegistrationQueue>>();
    auto join = [self = shared_from_this(), handle] {
      const auto queue = handle->lock();
      const bool posted = queue && self->home_.post([self, weak = *handle] { self->join(weak); });
      if (queue && !posted) queue->close();
    };
    auto queue = std::make_shared<RegistrationQueue>(std::move(join));
    *handle = queue;
    return Generator<RegistrationEvent>(std::move(queue));
  }

  void close() {
    closed_ = true;
    for (const auto& weak : std::exchange(queues_, {})) {
      if (const auto queue = weak.lock()) queue->close();
    }
  }

 private:
  static bool is_there(RegistrationState state) noexcept {
    return state == RegistrationState::Registered || state == RegistrationState::Restored;
  }

  void join(const std::weak_ptr<RegistrationQueue>& weak) {
    const auto queue = weak.lock();
    if (!queue) return;
    for (const auto& [id, event] : current_) queue->push(event);
    if (closed_) {
      queue->close();
    } else {
      queues_.push_back(weak);
    }
  }

  const Home home_;
  const Observer observer_;
  std::map<std::string, RegistrationEvent> current_;
  std::vector<std::weak_ptr<RegistrationQueue>> queues_;
  bool closed_ = false;
};

}  // namespace registry::detail
