// A balancer that knows how its own calls fare.
#pragma once

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "registry/discovery/plan_cache.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/discovery/thread_draw.hpp"
#include "registry/policy/candidates.hpp"
#include "registry/policy/load.hpp"

namespace registry {

/// The settings of a LeastLoadedBalancer: what is near, and how long it remembers.
struct LeastLoadedConfig : BalancerConfig {
  /// A slow call counts less and less over this time. At least 1 ms.
  std::chrono::milliseconds memory{10'000};
  /// A failed call counts as one that took at least this long: an instance that fails at once must not look fast.
  /// 0: failures count as they last.
  std::chrono::milliseconds failure_cost{1'000};

  LeastLoadedConfig() {}
};

/// Of two instances drawn at random the less loaded one (power of two choices): calls in flight times the latency of
/// the last calls, divided by the weight. It knows the calls that are begun with `begin`, and no others.
///
///     if (auto call = balancer.begin(view)) {
///       ... call->endpoints ...
///       if (!ok) call.failed();
///     }  // the call has ended
///
/// What all balancers have in common stands in balancers.hpp.
///
/// Thread safety: any number of threads may begin, pick and end calls at the same time. One balancer may serve
/// several views.
class LeastLoadedBalancer {
  struct Known;

 public:
  /// One call, in flight until this is destroyed. Empty when there was no instance. The balancer may be gone by
  /// then. Thread safety: any thread may use and end it, one at a time.
  class Call {
   public:
    Call() {}
    /// The call goes over; `other` is empty then.
    Call(Call&& other) noexcept { swap(other); }
    /// Ends the call that was here, and takes that of `other` over.
    Call& operator=(Call&& other) noexcept {
      Call(std::move(other)).swap(*this);
      return *this;
    }
    ~Call() {
      if (known_ == nullptr) return;
      const auto now = std::chrono::steady_clock::now();
      const auto took =
          std::max(now - begun_, failed_ ? Clock::duration(known_->failure_cost) : Clock::duration(0));
      known_->load.end(std::chrono::duration<float>(took).count(), ticks(now), known_->memory);
    }

    /// Whether there is an instance to call.
    explicit operator bool() const noexcept { return instance_ != nullptr; }
    /// The instance to call; not for an empty one.
    const ServiceInstance& operator*() const noexcept { return *instance_; }
    /// The instance to call; null for an empty one.
    const ServiceInstance* operator->() const noexcept { return instance_.get(); }
    /// The instance to call; null for an empty one.
    const std::shared_ptr<const ServiceInstance>& instance() const noexcept { return instance_; }

    /// The call went wrong because of the instance.
    void failed() noexcept { failed_ = true; }

   private:
    friend class LeastLoadedBalancer;
    Call(std::shared_ptr<const ServiceInstance> instance, Known* known,
         std::chrono::steady_clock::time_point begun)
        : instance_(std::move(instance)), known_(known), begun_(begun) {
      known_->load.begin();
    }
    void swap(Call& other) noexcept {
      instance_.swap(other.instance_);
      std::swap(known_, other.known_);
      std::swap(begun_, other.begun_);
      std::swap(failed_, other.failed_);
    }

    std::shared_ptr<const ServiceInstance> instance_;
    Known* known_ = nullptr;  // lives as long as the plan, which the instance keeps
    std::chrono::steady_clock::time_point begun_;
    bool failed_ = false;
  };

  /// Prefers what is near, as `config` says; a `memory` below 1 ms counts as 1 ms.
  explicit LeastLoadedBalancer(LeastLoadedConfig config = LeastLoadedConfig()) : plans_(std::move(config)) {}

  /// Picks, and counts the call until the result is destroyed.
  Call begin(const ServiceView& view) {
    const auto now = Clock::now();
    const auto& mine = plans_.get(view);
    if (mine.size() == 0) return Call();
    const std::size_t at = choose(*mine.plan, ticks(now));
    return Call(mine.share(at), mine.plan->known[at].get(), now);
  }

  /// Picks without counting: for a look at who would be next, or for calls that are over at once.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    const auto& mine = plans_.get(view);
    return mine.size() == 0 ? nullptr : mine.share(choose(*mine.plan, recent_ticks()));
  }

 private:
  using Clock = std::chrono::steady_clock;

  // What is known of one instance outlives lists, and the balancer while a call is in flight.
  struct Known {
    explicit Known(const LeastLoadedConfig& config)
        : memory(static_cast<float>(std::max<std::int64_t>(config.memory.count(), 1))),
          failure_cost(config.failure_cost) {}
    detail::Load load;
    const float memory;
    const std::chrono::milliseconds failure_cost;
  };

  struct Plan : detail::CandidatePlan {
    Plan(const std::shared_ptr<const ServiceSnapshot>& from, const LeastLoadedConfig& config,
         const Plan* before)
        : CandidatePlan(from, config, before) {
      known.reserve(candidates.size());
      std::size_t old = 0;  // both lists are in the order of ids
      for (const detail::Candidate& each : candidates) {
        while (before != nullptr && old < before->candidates.size() &&
               before->candidates[old].instance->id < each.instance->id) {
          ++old;
        }
        const bool same = before != nullptr && old < before->candidates.size() &&
                          before->candidates[old].instance->id == each.instance->id;
        known.push_back(same ? before->known[old] : std::make_shared<Known>(config));
      }
    }
    std::vector<std::shared_ptr<Known>> known;
  };

  static std::uint32_t ticks(Clock::time_point time) noexcept {
    return static_cast<std::uint32_t>(
        std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count());
  }

  /// As of the kernel's last tick: some milliseconds old, at a fifth of the price.
  static std::uint32_t recent_ticks() noexcept {
#ifdef CLOCK_MONOTONIC_COARSE  // steady_clock's own time line
    timespec now{};
    ::clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return static_cast<std::uint32_t>(now.tv_sec * 1000 + now.tv_nsec / 1'000'000);
#else
    return ticks(Clock::now());
#endif
  }

  static std::size_t choose(const Plan& plan, std::uint32_t now) {
    const std::size_t count = plan.candidates.size();
    const std::size_t one = detail::thread_draw(count);
    if (count == 1) return one;
    std::size_t other = detail::thread_draw(count - 1);
    if (other >= one) ++other;
    const auto cost = [&](std::size_t at) {
      const auto& known = *plan.known[at];
      return known.load.cost(plan.candidates[at].weight, now, known.memory);
    };
    return cost(other) < cost(one) ? other : one;
  }

  detail::PlanCache<Plan, LeastLoadedConfig> plans_;
};

}  // namespace registry
