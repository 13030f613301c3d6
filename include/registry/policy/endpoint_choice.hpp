// Which member of a cluster to talk to: stay with a healthy one, leave a failing one at once, come back to it
// later.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <vector>

namespace registry {

/// The choice among endpoints, by their places in a row. A failing endpoint is avoided for a while that doubles with each
/// failure in a row.
///
/// Thread safety: none of its own; keep it on one strand.
class EndpointChoice {
 public:
  /// Of the clock that the caller reads.
  using TimePoint = std::chrono::steady_clock::time_point;

  /// Clients that start together spread over the members by `draw`, evenly distributed in [0, 1).
  EndpointChoice(std::size_t count, double draw)
      : endpoints_(std::max<std::size_t>(count, 1)),
        current_(std::min(endpoints_.size() - 1,
                          static_cast<std::size_t>(draw * static_cast<double>(endpoints_.size())))) {}

  /// How many there are.
  std::size_t size() const noexcept { return endpoints_.size(); }

  /// One more, at the end. The current one stays.
  void add() { endpoints_.emplace_back(); }

  /// Those behind it move up. The last one of all cannot be removed. If it is the current one, the next is it from
  /// now on.
  void remove(std::size_t endpoint) {
    if (endpoints_.size() == 1) return;
    endpoints_.erase(endpoints_.begin() + static_cast<std::ptrdiff_t>(endpoint));
    if (endpoint < current_) --current_;
    current_ %= endpoints_.size();
  }

  /// The endpoint to use at `now`: the current one while it is healthy, else the next healthy one in turn,
  /// else the one that is avoided for the shortest time.
  std::size_t pick(TimePoint now) noexcept {
    std::size_t best = current_;
    for (std::size_t step = 0; step < endpoints_.size(); ++step) {
      const std::size_t at = (current_ + step) % endpoints_.size();
      if (endpoints_[at].avoided_until <= now) {
        best = at;
        break;
      }
      if (endpoints_[at].avoided_until < endpoints_[best].avoided_until) best = at;
    }
    return current_ = best;
  }

  /// A call failed in a way that speaks against the endpoint. `draw` jitters the time it is avoided.
  void failed(std::size_t endpoint, TimePoint now, double draw) noexcept {
    State& state = endpoints_[endpoint];
    // Also who asks again only when the time is over asks elsewhere first: nobody knows whether it is well by then.
    if (endpoint == current_) current_ = (current_ + 1) % endpoints_.size();
    // Failures that are reported while it is avoided already belong to calls sent before: one outage, one
    // step.
    if (state.avoided_until > now) return;
    const auto step = shortest * (1u << std::min(state.failures, 6u));
    ++state.failures;
    state.avoided_until = now + std::chrono::duration_cast<TimePoint::duration>(step * (0.5 + 0.5 * draw));
  }

  /// The endpoint has answered: it is healthy, and its failures are forgotten.
  void succeeded(std::size_t endpoint) noexcept { endpoints_[endpoint] = State(); }

 private:
  static constexpr std::chrono::milliseconds shortest{100};  // doubles up to 6.4 s

  struct State {
    unsigned failures = 0;
    TimePoint avoided_until = TimePoint::min();
  };

  std::vector<State> endpoints_;
  std::size_t current_;
};

}  // namespace registry
