// What a balancer makes of a list, once for each list, shared by all threads that pick from it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "registry/discovery/own_count.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/policy/candidates.hpp"

namespace registry::detail {

/// A list and those of it that take part. Balancers that need more derive from it.
struct CandidatePlan {
  CandidatePlan(const std::shared_ptr<const ServiceSnapshot>& from, const BalancerConfig& config,
                const CandidatePlan* /*the one before*/)
      : list(from), candidates(detail::candidates(from->instances, config)) {}

  const std::shared_ptr<const ServiceSnapshot> list;
  const std::vector<Candidate> candidates;
};

/// `Plan`: CandidatePlan, or derived from it with a constructor of the same form. `Turn`: what one thread remembers between
/// its picks; made when it comes for the first time.
///
/// Each thread keeps the plan it used last under a control block of its own, as ViewState does with lists. While one
/// thread makes the plan for a new list, the others go on with the one they have.
template <class Plan, class Config, class Turn = int>
class PlanCache {
 public:
  explicit PlanCache(Config config) : config_(std::move(config)) {}

  struct Mine {
    std::shared_ptr<const Plan> plan;
    Turn turn{};

    std::size_t size() const noexcept { return plan->candidates.size(); }
    /// The candidate at this place; by the thread's own count of references, which keeps the whole plan.
    std::shared_ptr<const ServiceInstance> share(std::size_t at) const noexcept {
      return std::shared_ptr<const ServiceInstance>(plan, plan->candidates[at].instance);
    }
  };

  /// The reference is valid until this thread calls it again.
  Mine& get(const ServiceView& view) {
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
    entry.mine.plan = own_count(shared(key, list));
    if (!known) {
      entry.mine.turn = Turn{};
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

  std::shared_ptr<const Plan> shared(std::uint64_t view, const std::shared_ptr<const ServiceSnapshot>& list) {
    auto place = plans_.begin();
    while (place != plans_.end() && place->first != view) ++place;
    if (place == plans_.end()) {
      if (plans_.size() == most_views) plans_.erase(plans_.begin());  // the one that came first
      place = plans_.insert(plans_.end(), Shared(view, nullptr));
    }
    auto& plan = place->second;
    if (!plan || plan->list.get() != list.get())
      plan = std::make_shared<const Plan>(list, config_, plan.get());
    return plan;
  }

  static constexpr std::size_t most_views = 32;
  const std::uint64_t id_ = new_key();
  const Config config_;
  std::mutex mutex_;
  std::vector<Shared> plans_;
};

}  // namespace registry::detail
