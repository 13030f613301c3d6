// Balancers that know nothing but the list: random, round robin, weighted round robin, and consistent hash.
//
// What all balancers have in common:
// - `pick(view)` chooses among the instances of the view's current list whose status is Up and whose weight is not 0,
//   in the caller's zone or region if BalancerConfig names one. Null when there is none.
// - No call to the store and no copy of an instance. No lock unless the list changed since this thread's last pick.
// - What is returned keeps the list it was picked from alive: hold it for a call, not for the life of a session.
// - Thread safety: any number of threads may pick at the same time. One balancer may serve several views.
// - An idle thread keeps the lists it picked from last (at most 32 for each kind of balancer).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/discovery/plan_cache.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/model/errors.hpp"
#include "registry/policy/candidates.hpp"
#include "registry/policy/maglev.hpp"
#include "registry/policy/stride.hpp"

namespace registry {

namespace detail {

/// A list and those of it that take part.
struct CandidatePlan {
  CandidatePlan(const std::shared_ptr<const ServiceSnapshot>& from, const BalancerConfig& config)
      : list(from), candidates(detail::candidates(from->instances, config)) {}
  std::shared_ptr<const ServiceSnapshot> list;
  std::vector<Candidate> candidates;
};

}  // namespace detail

/// Each pick is a draw of its own; weights make no difference.
class RandomBalancer {
 public:
  explicit RandomBalancer(BalancerConfig config = BalancerConfig()) : config_(std::move(config)) {}

  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    auto& mine = plans_.get(
        view,
        [this](const auto& list, auto*) {
          return std::make_shared<const detail::CandidatePlan>(list, config_);
        },
        [] { return Turn(); });
    const auto& all = mine.plan->candidates;
    return all.empty() ? nullptr : mine.share(all[detail::thread_draw(all.size())].instance);
  }

 private:
  struct Turn {};

  const BalancerConfig config_;
  detail::PlanCache<detail::CandidatePlan, Turn> plans_;
};

/// One after the other; weights make no difference. Each thread goes round by itself and begins at a random place.
class RoundRobinBalancer {
 public:
  explicit RoundRobinBalancer(BalancerConfig config = BalancerConfig()) : config_(std::move(config)) {}

  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    auto& mine = plans_.get(
        view,
        [this](const auto& list, auto*) {
          return std::make_shared<const detail::CandidatePlan>(list, config_);
        },
        [] { return Turn{static_cast<std::size_t>(detail::thread_draw() >> 1)}; });
    const auto& all = mine.plan->candidates;
    if (all.empty()) return nullptr;
    std::size_t& next = mine.turn.next;
    if (next >= all.size()) next %= all.size();
    return mine.share(all[next++].instance);
  }

 private:
  struct Turn {
    std::size_t next = 0;
  };

  const BalancerConfig config_;
  detail::PlanCache<detail::CandidatePlan, Turn> plans_;
};

/// In proportion to the weights, evenly interleaved: an instance with less than a quarter of the weight rarely
/// comes twice in a row. Each thread goes round by itself and begins at a random place.
class WeightedRoundRobinBalancer {
 public:
  explicit WeightedRoundRobinBalancer(BalancerConfig config = BalancerConfig())
      : config_(std::move(config)) {}

  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    auto& mine = plans_.get(
        view, [this](const auto& list, auto*) { return std::make_shared<const Plan>(list, config_); },
        [] {
          const std::uint64_t draw = detail::thread_draw();
          return detail::StrideTurn{static_cast<std::uint32_t>(draw % 1024),
                                    static_cast<std::uint32_t>(draw >> 32)};
        });
    const Plan& plan = *mine.plan;
    if (plan.candidates.empty()) return nullptr;
    return mine.share(plan.candidates[plan.schedule.next(mine.turn)].instance);
  }

 private:
  struct Plan : detail::CandidatePlan {
    Plan(const std::shared_ptr<const ServiceSnapshot>& from, const BalancerConfig& config)
        : CandidatePlan(from, config) {
      std::vector<std::uint32_t> weights;
      weights.reserve(candidates.size());
      for (const detail::Candidate& each : candidates) weights.push_back(each.weight);
      schedule = detail::StrideSchedule(weights);
    }
    detail::StrideSchedule schedule;
  };

  const BalancerConfig config_;
  detail::PlanCache<Plan, detail::StrideTurn> plans_;
};

/// Equal keys go to the same instance, different keys are spread by weight. The same everywhere: clients with the same
/// list and the same settings agree. When an instance comes or goes, its share of the keys moves and few others
/// (Maglev's table; measured at 100 instances: below 3 %).
class ConsistentHashBalancer {
 public:
  /// `table_size` is a prime: at least 100 for each instance keep the shares even to 1 %. The table takes four bytes
  /// for each, and is made again only when an id, a weight or a status changes.
  /// Throws `invalid_argument` if it is no prime, or beyond 16,777,216.
  explicit ConsistentHashBalancer(BalancerConfig config = BalancerConfig(), std::size_t table_size = 65'537)
      : config_(std::move(config)), table_size_(table_size) {
    if (table_size > (1u << 24) || !detail::is_prime(table_size))
      detail::fail(errc::invalid_argument,
                   "table_size = " + std::to_string(table_size) + ": use a prime up to 16777216");
  }

  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view, std::string_view key) {
    return pick_hash(view, detail::hash_text(key));
  }

  /// For keys that are numbers already; `hash` need not be well mixed.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view, std::uint64_t hash) {
    return pick_hash(view, detail::mix_bits(hash));
  }

 private:
  struct Plan : detail::CandidatePlan {
    Plan(const std::shared_ptr<const ServiceSnapshot>& from, const BalancerConfig& config,
         std::size_t table_size, const Plan* before)
        : CandidatePlan(from, config) {
      if (before != nullptr && same_items(candidates, before->candidates)) {
        table = before->table;
        return;
      }
      std::vector<detail::MaglevTable::Item> items;
      items.reserve(candidates.size());
      for (const detail::Candidate& each : candidates) items.push_back({each.instance->id, each.weight});
      table = std::make_shared<const detail::MaglevTable>(items, table_size);
    }
    static bool same_items(const std::vector<detail::Candidate>& a, const std::vector<detail::Candidate>& b) {
      if (a.size() != b.size()) return false;
      for (std::size_t i = 0; i < a.size(); ++i) {
        if (a[i].weight != b[i].weight || a[i].instance->id != b[i].instance->id) return false;
      }
      return true;
    }
    std::shared_ptr<const detail::MaglevTable> table;
  };
  struct Turn {};

  std::shared_ptr<const ServiceInstance> pick_hash(const ServiceView& view, std::uint64_t hash) {
    auto& mine = plans_.get(
        view,
        [this](const auto& list, const Plan* before) {
          return std::make_shared<const Plan>(list, config_, table_size_, before);
        },
        [] { return Turn(); });
    const Plan& plan = *mine.plan;
    return plan.candidates.empty() ? nullptr : mine.share(plan.candidates[plan.table->find(hash)].instance);
  }

  const BalancerConfig config_;
  const std::size_t table_size_;
  detail::PlanCache<Plan, Turn> plans_;
};

}  // namespace registry
