// The definitions of service_view.hpp.
#pragma once

#include <asio/awaitable.hpp>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "registry/discovery/service_view.hpp"
#include "registry/discovery/view_state.hpp"
#include "registry/model/decl.hpp"
#include "registry/model/errors.hpp"

namespace registry {

REGISTRY_DECL const std::shared_ptr<const ServiceSnapshot>& ServiceView::current() const noexcept {
  return state_ ? state_->current() : detail::ViewState::none();
}

REGISTRY_DECL std::uint64_t ServiceView::id() const noexcept { return state_ ? state_->id() : 0; }

REGISTRY_DECL asio::awaitable<std::shared_ptr<const ServiceSnapshot>> ServiceView::next() {
  return next_of(state_, seen_);
}

REGISTRY_DECL asio::awaitable<void> ServiceView::wait_ready(std::size_t at_least) {
  return ready(state_, at_least);
}

REGISTRY_DECL asio::awaitable<std::shared_ptr<const ServiceSnapshot>> ServiceView::next_of(State state,
                                                                                           Seen seen) {
  if (!state) detail::fail(errc::closed);
  const detail::ViewState::Waiting waiting(state);
  for (;;) {
    if (state->closed()) detail::fail(errc::closed);
    const std::uint64_t version = state->version();
    if (seen->exchange(version) != version) co_return state->current();
    co_await waiting.signal().wait();
  }
}

REGISTRY_DECL asio::awaitable<void> ServiceView::ready(State state, std::size_t at_least) {
  if (!state) detail::fail(errc::closed);
  const detail::ViewState::Waiting waiting(state);
  while (state->current()->instances.size() < at_least) {
    if (state->closed()) detail::fail(errc::closed);
    co_await waiting.signal().wait();
  }
}

}  // namespace registry
