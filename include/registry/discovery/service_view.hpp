// A live local list of the instances of a service.
#pragma once

#include <asio/awaitable.hpp>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "registry/model/snapshot.hpp"

namespace registry {

namespace detail {
class ViewState;
}

/// A live local list of the instances of a service, from Registry::subscribe. Copies look at the same list,
/// each with its own position for `next()`. The service is followed until the last copy is gone; a pending
/// `next()` or `wait_ready()` counts as one. A default-constructed view is empty: its list has no instances
/// and is stale.
///
/// When the store is out of reach the list stays as it was, and says that it is stale and since when. The
/// same after the Registry was closed.
///
/// Thread safety: distinct handles may be used from different threads, `snapshot()` and `current()` of one handle
/// too. Awaitables resume on the caller's executor.
class ServiceView {
 public:
  ServiceView() {}
  /// For Registry::subscribe.
  explicit ServiceView(std::shared_ptr<detail::ViewState> state)
      : state_(std::move(state)), seen_(std::make_shared<std::atomic<std::uint64_t>>(0)) {}
  /// Another handle on the same list; its `next()` goes on where that of `other` is.
  ServiceView(const ServiceView& other) : state_(other.state_) {
    if (state_) seen_ = std::make_shared<std::atomic<std::uint64_t>>(other.seen_->load());
  }
  ServiceView(ServiceView&&) noexcept = default;
  /// This handle becomes what `other` is.
  ServiceView& operator=(ServiceView other) noexcept {
    state_.swap(other.state_);
    seen_.swap(other.seen_);
    return *this;
  }

  /// Whether this is a view of a service, not the empty state.
  explicit operator bool() const noexcept { return state_ != nullptr; }

  /// The current list; never null. No call to the store, and no lock unless the view changed since this
  /// thread's last read. An idle thread keeps the lists it read last (of at most 32 views).
  std::shared_ptr<const ServiceSnapshot> snapshot() const noexcept { return current(); }

  /// As snapshot(), without touching a counter; the reference is valid until this thread reads another view
  /// or this one again.
  const std::shared_ptr<const ServiceSnapshot>& current() const noexcept;

  /// Tells views apart: the same for copies, 0 for an empty view.
  std::uint64_t id() const noexcept;

  /// The latest list once it differs from what this handle's last `next()` returned; the first call returns
  /// at once. Lists in between are skipped. Becoming stale or fresh again is a difference.
  /// Errors: `closed` when the Registry or its store was closed, and for an empty view.
  /// Cancellation: throws `operation_aborted`; nothing is lost.
  asio::awaitable<std::shared_ptr<const ServiceSnapshot>> next();

  /// Until the list has at least this many instances. Returns at once if it has. Errors: as `next()`.
  /// Cancellation: throws `operation_aborted`; nothing is lost.
  asio::awaitable<void> wait_ready(std::size_t at_least = 1);

 private:
  using State = std::shared_ptr<detail::ViewState>;
  using Seen = std::shared_ptr<std::atomic<std::uint64_t>>;

  static asio::awaitable<std::shared_ptr<const ServiceSnapshot>> next_of(State state, Seen seen);
  static asio::awaitable<void> ready(State state, std::size_t at_least);

  State state_;
  Seen seen_;  // the version that next() returned last
};

}  // namespace registry

#ifndef REGISTRY_COMPILED
#include "registry/discovery/service_view_impl.hpp"
#endif
