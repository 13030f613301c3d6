// The coroutines a core keeps running in the background: cancelled together, and awaited together at the end.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <chrono>
#include <exception>
#include <list>
#include <memory>
#include <utility>

#include "registry/async/home.hpp"
#include "registry/async/signal.hpp"

namespace registry::detail {

/// Not thread-safe: everything is called on the home's strand. Destroying a scope cancels nothing and waits
/// for nothing: its coroutines own the core, so a core with running coroutines is never destroyed.
class TaskScope {
 public:
  using Deadline = std::chrono::steady_clock::time_point;

  explicit TaskScope(Home home) : home_(std::move(home)), state_(std::make_shared<State>()) {}

  /// Starts `work`; does nothing once cancelled. Work ends by returning or by cancellation; it throws nothing
  /// else.
  void spawn(asio::awaitable<void> work) {
    if (state_->cancelled) return;
    const auto task = state_->tasks.emplace(state_->tasks.end());
    auto end = [state = state_, task](std::exception_ptr) {
      state->tasks.erase(task);
      if (!state->tasks.empty()) return;
      for (const Signal& joiner : state->joiners) joiner.raise();
    };
    home_.spawn(std::move(work), asio::bind_cancellation_slot(task->slot(), std::move(end)));
  }

  /// Cancels what runs, and whatever would be started later.
  void cancel() {
    if (std::exchange(state_->cancelled, true)) return;
    // A task that ends at once erases itself: walk with the next one in hand. Ends are posted, never inline,
    // but a task may start or end others.
    const auto state = state_;
    for (auto task = state->tasks.begin(); task != state->tasks.end();) {
      (task++)->emit(asio::cancellation_type::terminal);
    }
  }

  bool cancelled() const { return state_->cancelled; }
  std::size_t size() const { return state_->tasks.size(); }

  /// Waits until nothing runs, or until the time has come.
  asio::awaitable<void> join(Deadline deadline = Deadline::max()) { return join_on(state_, deadline); }

 private:
  struct State {
    std::list<asio::cancellation_signal> tasks;
    std::list<Signal> joiners;
    bool cancelled = false;
  };

  class Joiner {
   public:
    explicit Joiner(std::shared_ptr<State> state)
        : state_(std::move(state)), place_(state_->joiners.emplace(state_->joiners.end())) {}
    Joiner(const Joiner&) = delete;
    Joiner& operator=(const Joiner&) = delete;
    ~Joiner() { state_->joiners.erase(place_); }
    const Signal& idle() const { return *place_; }

   private:
    const std::shared_ptr<State> state_;
    const std::list<Signal>::iterator place_;
  };

  static asio::awaitable<void> join_on(std::shared_ptr<State> state, Deadline deadline) {
    const Joiner joiner(state);
    while (!state->tasks.empty() && std::chrono::steady_clock::now() < deadline)
      co_await joiner.idle().wait_until(deadline);
  }

  Home home_;
  std::shared_ptr<State> state_;
};

}  // namespace registry::detail
