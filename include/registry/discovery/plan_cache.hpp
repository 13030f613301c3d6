// What a balancer makes of a list, once for each list, shared by all threads that pick from it.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "registry/async/clock.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/policy/rendezvous.hpp"

namespace registry::detail {

/// `Plan` has `list`, the snapshot that it was made of; `Turn` is what one thread remembers between its picks.
///
/// Each thread keeps the plan it used last under a control block of its own, as ViewState does with lists: threads
/// that pick at the same time share no counter. While one thread makes the plan for a new list, the others go on
/// with the one they have.
template <class Plan, class Turn>
class PlanCache {
 public:
  struct Mine {
    std::shared_ptr<const Plan> plan;
    Turn turn;

    /// The thread's own count of references: it keeps the whole plan, and with it the instance.
    std::shared_ptr<const ServiceInstance> share(const ServiceInstance* instance) const noexcept {
      return std::shared_ptr<const ServiceInstance>(plan, instance);
    }
  };

  /// `make`: (list, the plan before it or null) to a shared_ptr<const Plan>. The reference is valid until this
  /// thread calls it again. `begin`: () to a Turn, for a thread that comes for the first time.
  template <class Make, class Begin>
  Mine& get(const ServiceView& view, const Make& make, const Begin& begin) {
    thread_local std::array<Entry, 32> entries;
    const auto& list = view.current();
    const std::uint64_t key = view.id();
    Entry& entry = entries[(id_ * 7 + key) % entries.size()];
    const bool known = entry.cache == id_ && entry.view == key;
    if (known && entry.mine.plan->list.get() == list.get()) return entry.mine;
    std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock) {
      if (known) return entry.mine;
      lock.lock();
    }
    auto own = std::make_shared<const std::shared_ptr<const Plan>>(shared(key, list, make));
    const Plan* plan = own->get();
    entry.mine.plan = std::shared_ptr<const Plan>(std::move(own), plan);
    if (!known) {
      entry.mine.turn = begin();
      entry.cache = id_;
      entry.view = key;
    }
    return entry.mine;
  }

 private:
  struct Entry {
    std::uint64_t cache = 0, view = 0;
    Mine mine;
  };
  using Shared = std::pair<std::uint64_t, std::shared_ptr<const Plan>>;

  template <class Make>
  std::shared_ptr<const Plan> shared(std::uint64_t view, const std::shared_ptr<const ServiceSnapshot>& list,
                                     const Make& make) {
    auto place = plans_.begin();
    while (place != plans_.end() && place->first != view) ++place;
    if (place == plans_.end()) {
      if (plans_.size() == most_views) plans_.erase(plans_.begin());  // the one that came first
      place = plans_.insert(plans_.end(), Shared(view, nullptr));
    }
    auto& plan = place->second;
    if (!plan || plan->list.get() != list.get()) plan = make(list, plan.get());
    return plan;
  }

  static std::uint64_t new_id() {
    static std::atomic<std::uint64_t> last{0};
    return ++last;
  }

  static constexpr std::size_t most_views = 32;
  const std::uint64_t id_ = new_id();
  std::mutex mutex_;
  std::vector<Shared> plans_;
};

/// Evenly distributed 64-bit numbers; one sequence for each thread. Not for secrets.
inline std::uint64_t thread_draw() {
  thread_local std::uint64_t state = [] {
    Random random;
    return static_cast<std::uint64_t>(random.id());
  }();
  return mix_bits(state += 0x9E3779B97F4A7C15u);
}

/// Evenly distributed in [0, count); count is not 0.
inline std::size_t thread_draw(std::size_t count) {
  return static_cast<std::size_t>(((thread_draw() >> 32) * std::uint64_t{count}) >> 32);
}

}  // namespace registry::detail
