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

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/discovery/plan_cache.hpp"
#include "registry/discovery/service_view.hpp"
#include "registry/discovery/thread_draw.hpp"
#include "registry/model/errors.hpp"
#include "registry/policy/candidates.hpp"
#include "registry/policy/maglev.hpp"
#include "registry/policy/stride.hpp"

namespace registry {

/// Each pick is a draw of its own; weights make no difference.
///
/// Thread safety: any number of threads may pick at the same time. One balancer may serve several views.
class RandomBalancer {
 public:
  /// Prefers what is near, as `config` says; checks nothing, any setting works.
  explicit RandomBalancer(BalancerConfig config = BalancerConfig()) : plans_(std::move(config)) {}

  /// An instance of the view's current list; null when none is eligible. Throws nothing but
  /// std::bad_alloc.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    const auto& mine = plans_.get(view);
    return mine.size() == 0 ? nullptr : mine.share(detail::thread_draw(mine.size()));
  }

 private:
  detail::PlanCache<detail::CandidatePlan, BalancerConfig> plans_;
};

/// One after the other; weights make no difference. Each thread goes round by itself and begins at a random place.
///
/// Thread safety: any number of threads may pick at the same time. One balancer may serve several views.
class RoundRobinBalancer {
 public:
  /// Prefers what is near, as `config` says; checks nothing, any setting works.
  explicit RoundRobinBalancer(BalancerConfig config = BalancerConfig()) : plans_(std::move(config)) {}

  /// An instance of the view's current list; null when none is eligible. Throws nothing but
  /// std::bad_alloc.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    auto& mine = plans_.get(view);
    if (mine.size() == 0) return nullptr;
    std::size_t& next = mine.turn.next;
    if (next >= mine.size()) next %= mine.size();
    return mine.share(next++);
  }

 private:
  struct Turn {
    std::size_t next = static_cast<std::size_t>(detail::thread_draw());
  };
  detail::PlanCache<detail::CandidatePlan, BalancerConfig, Turn> plans_;
};

/// In proportion to the weights, evenly interleaved: an instance with less than a quarter of the weight rarely
/// comes twice in a row. Each thread goes round by itself and begins at a random place.
///
/// Thread safety: any number of threads may pick at the same time. One balancer may serve several views.
class WeightedRoundRobinBalancer {
 public:
  /// Prefers what is near, as `config` says; checks nothing, any setting works.
  explicit WeightedRoundRobinBalancer(BalancerConfig config = BalancerConfig()) : plans_(std::move(config)) {}

  /// An instance of the view's current list; null when none is eligible. Throws nothing but
  /// std::bad_alloc.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view) {
    auto& mine = plans_.get(view);
    return mine.size() == 0 ? nullptr : mine.share(mine.plan->schedule.next(mine.turn));
  }

 private:
  struct Plan : detail::CandidatePlan {
    Plan(const std::shared_ptr<const ServiceSnapshot>& from, const BalancerConfig& config, const Plan* before)
        : CandidatePlan(from, config, before), schedule(weights_of(candidates)) {}
    static std::vector<std::uint32_t> weights_of(const std::vector<detail::Candidate>& candidates) {
      std::vector<std::uint32_t> weights;
      weights.reserve(candidates.size());
      for (const detail::Candidate& each : candidates) weights.push_back(each.weight);
      return weights;
    }
    const detail::StrideSchedule schedule;
  };
  struct Turn : detail::StrideTurn {
    Turn() {
      slot = static_cast<std::uint32_t>(detail::thread_draw(1024));
      pass = static_cast<std::uint32_t>(detail::thread_draw());
    }
  };
  detail::PlanCache<Plan, BalancerConfig, Turn> plans_;
};

/// Equal keys go to the same instance, different keys are spread by weight. The same everywhere: clients with the same
/// list and the same settings agree. When an instance comes or goes, its share of the keys moves and few others
/// (Maglev's table; measured at 100 instances: below 3 %).
///
/// Thread safety: any number of threads may pick at the same time. One balancer may serve several views.
class ConsistentHashBalancer {
 public:
  /// `table_size` is a prime: at least 100 for each instance keep the shares even to 1 %. The table takes four bytes
  /// for each, and is made again only when an id, a weight or a status changes.
  /// Throws `invalid_argument` if it is no prime, or beyond 16,777,216.
  explicit ConsistentHashBalancer(BalancerConfig config = BalancerConfig(), std::size_t table_size = 65'537)
      : plans_(Config(std::move(config), table_size)) {
    if (table_size > (1u << 24) || !detail::is_prime(table_size))
      detail::fail(errc::invalid_argument,
                   "table_size = " + std::to_string(table_size) + ": use a prime up to 16777216");
  }

  /// The instance of the view's current list that this key goes to; null when none is eligible. Throws
  /// nothing but std::bad_alloc.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view, std::string_view key) {
    return pick_hash(view, detail::hash_text(key));
  }

  /// The same for keys that are numbers already; `hash` need not be well mixed.
  std::shared_ptr<const ServiceInstance> pick(const ServiceView& view, std::uint64_t hash) {
    return pick_hash(view, detail::mix_bits(hash));
  }

 private:
  struct Config : BalancerConfig {
    Config(BalancerConfig config, std::size_t size) : BalancerConfig(std::move(config)), table_size(size) {}
    std::size_t table_size;
  };
  struct Plan : detail::CandidatePlan {
    Plan(const std::shared_ptr<const ServiceSnapshot>& from, const Config& config, const Plan* before)
        : CandidatePlan(from, config, before),
          table(before != nullptr && same_items(candidates, before->candidates)
                    ? before->table
                    : table_of(candidates, config.table_size)) {}
    static bool same_items(const std::vector<detail::Candidate>& a, const std::vector<detail::Candidate>& b) {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& one, const auto& other) {
        return one.weight == other.weight && one.instance->id == other.instance->id;
      });
    }
    static std::shared_ptr<const detail::MaglevTable> table_of(
        const std::vector<detail::Candidate>& candidates, std::size_t size) {
      std::vector<detail::MaglevTable::Item> items;
      items.reserve(candidates.size());
      for (const detail::Candidate& each : candidates) items.push_back({each.instance->id, each.weight});
      return std::make_shared<const detail::MaglevTable>(items, size);
    }
    const std::shared_ptr<const detail::MaglevTable> table;
  };

  std::shared_ptr<const ServiceInstance> pick_hash(const ServiceView& view, std::uint64_t hash) {
    const auto& mine = plans_.get(view);
    return mine.size() == 0 ? nullptr : mine.share(mine.plan->table->find(hash));
  }

  detail::PlanCache<Plan, Config> plans_;
};

}  // namespace registry
