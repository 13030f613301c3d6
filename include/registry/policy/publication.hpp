// What is published of a service to one gRPC client: which of its instances take calls, at which addresses,
// in which order of preference and with which shares.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "registry/model/filter.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/text.hpp"
#include "registry/policy/endpoint_assignment.hpp"
#include "registry/policy/ip_literal.hpp"
#include "registry/policy/nearness.hpp"
#include "registry/policy/rendezvous.hpp"
#include "registry/policy/weights.hpp"

namespace registry {

/// How calls are spread over the instances of a cluster.
enum class Balancing {
  RoundRobin,  ///< in turn, by weight
  PickFirst,   ///< all to one instance, to the next one if it fails; over many clients by weight
  RingHash,    ///< by a hash of the call, by weight
};

/// How to publish a service to one client.
struct PublicationRule {
  Balancing balancing = Balancing::RoundRobin;  ///< how calls are spread
  ServiceFilter filter;                         ///< only instances that pass
  std::optional<std::string> version;           ///< besides the filter: the version that this cluster is for
  /// Where the client runs: own zone first, then own region, then the rest. Empty: no preference.
  std::string region, zone;
  std::string client;  ///< who it is, for a subset and for pick first; empty: all clients do alike
  std::size_t max_endpoints = 500;  ///< of more than this a subset, the own zone first; 0: no limit
  std::size_t max_priorities = 16;  ///< instances that pick first may go through; at least 1

  PublicationRule() {}
  friend bool operator==(const PublicationRule&, const PublicationRule&) = default;
};

namespace detail {

/// Collects the instances that can be published, then arranges them.
class Publication {
 public:
  explicit Publication(const PublicationRule& rule) : rule_(rule), order_(rule.client) {}

  void reserve(std::size_t instances) {
    candidates_.reserve(instances);
    addresses_.reserve(instances);
    seen_.reserve(instances);
  }

  /// In the order of ids: an address belongs to the first that has it.
  template <class AddressesOf>
  void add(const ServiceInstance& instance, AddressesOf& addresses_of) {
    Candidate made;
    made.weight = share_of(instance);
    if (made.weight == 0) return;
    if ((rule_.version && instance.version != *rule_.version) || !rule_.filter.matches(instance)) return;
    made.instance = &instance;
    made.begin = addresses_.size();
    auto&& addresses = addresses_of(instance);
    for (const ResolvedAddress& address : addresses) add(address);
    made.count = addresses_.size() - made.begin;
    if (made.count == 0) return;
    made.tier = tier_of(instance, rule_.region, rule_.zone);
    candidates_.push_back(made);
  }

  EndpointAssignment arrange() {
    EndpointAssignment made;
    if (rule_.balancing == Balancing::PickFirst) {
      rank([this](const Candidate& each) {
        return rule_.client.empty() ? 0.0 : order_.rank(each.instance->id, each.weight);
      });
      if (const std::size_t most = std::max<std::size_t>(rule_.max_priorities, 1);
          candidates_.size() > most) {
        candidates_.resize(most);
      }
      for (auto each = candidates_.begin(); each != candidates_.end(); ++each) {
        made.priorities.push_back({single(*each)});
      }
      return made;
    }
    limit();
    for (int tier = 0; tier <= 2; ++tier) {
      std::vector<Candidate> members;
      for (const Candidate& each : candidates_) {
        if (each.tier == tier) members.push_back(each);
      }
      if (members.empty()) continue;
      made.priorities.push_back(rule_.balancing == Balancing::RingHash ? ring(members) : classes(members));
    }
    return made;
  }

 private:
  struct Candidate {
    const ServiceInstance* instance = nullptr;
    std::uint32_t weight = 1;
    int tier = 0;                      // 0: own zone, 1: own region, 2: the rest
    std::size_t begin = 0, count = 0;  // its part of addresses_
    double rank = 0;
  };
  using Localities = std::vector<PublishedLocality>;

  struct Key {
    IpBytes ip;
    std::uint16_t port;
    friend bool operator==(const Key&, const Key&) = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const noexcept { return key.ip.hash() + key.port; }
  };

  void add(const ResolvedAddress& address) {
    const auto ip = parse_ip(address.ip);
    if (ip && address.port != 0 && seen_.insert({*ip, address.port}).second) {
      addresses_.emplace_back(ip->text(), address.port);
    }
  }

  /// Orders the candidates by preference; those of equal rank stay in the order of their ids.
  template <class Rank>
  void rank(Rank rank_of) {
    for (Candidate& each : candidates_) each.rank = rank_of(each);
    std::stable_sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.tier != b.tier ? a.tier < b.tier : a.rank < b.rank;
    });
  }

  /// Keeps what the client ranks first. Weights do not matter here: they count among those that are kept.
  void limit() {
    if (rule_.max_endpoints == 0 || addresses_.size() <= rule_.max_endpoints) return;
    rank([this](const Candidate& each) { return static_cast<double>(order_.rank(each.instance->id)); });
    std::size_t left = rule_.max_endpoints, kept = 0;
    for (; left > 0 && kept < candidates_.size(); ++kept) {
      candidates_[kept].count = std::min(candidates_[kept].count, left);
      left -= candidates_[kept].count;
    }
    candidates_.resize(kept);
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& a, const Candidate& b) { return a.begin < b.begin; });
  }

  PublishedLocality locality(int tier, std::string sub_zone) const {
    PublishedLocality made;
    if (tier <= 1) made.region = rule_.region;
    if (tier == 0) made.zone = rule_.zone;
    made.sub_zone = std::move(sub_zone);
    return made;
  }

  void publish(const Candidate& candidate, PublishedLocality& where) {
    for (std::size_t i = candidate.begin; i < candidate.begin + candidate.count; ++i) {
      PublishedEndpoint& made = where.endpoints.emplace_back();
      made.ip = std::move(addresses_[i].ip);
      made.port = addresses_[i].port;
    }
  }

  PublishedLocality single(const Candidate& candidate) {
    const std::string& id = candidate.instance->id;
    // gRPC refuses a message whose text is not UTF-8.
    PublishedLocality made = locality(candidate.tier, is_utf8(id) ? id : std::to_string(hash_text(id)));
    publish(candidate, made);
    return made;
  }

  /// Round robin ignores the weights of endpoints, so there is a locality for each. An instance with several
  /// addresses shares its weight out among them.
  Localities classes(const std::vector<Candidate>& members) {
    struct Class {
      PublishedLocality locality;
      std::uint64_t weight = 0;
    };
    std::map<std::pair<std::uint64_t, std::uint64_t>, Class>
        found;  // by weight of an endpoint, as a fraction
    for (const Candidate& each : members) {
      const std::uint64_t common = std::gcd(std::uint64_t{each.weight}, std::uint64_t{each.count});
      const auto [place, fresh] = found.try_emplace({each.weight / common, each.count / common});
      const auto& [part, of] = place->first;
      if (fresh) {
        const std::string divided = of == 1 ? "" : "/" + std::to_string(of);
        place->second.locality = locality(each.tier, "weight-" + std::to_string(part) + divided);
      }
      place->second.weight += each.weight;
      publish(each, place->second.locality);
    }
    std::vector<std::uint64_t> weights;
    for (const auto& [name, each] : found) weights.push_back(each.weight);
    const std::vector<std::uint32_t> fitted = fit_weights(weights);
    Localities made;
    for (auto& [name, each] : found) {
      each.locality.weight = fitted[made.size()];
      made.push_back(std::move(each.locality));
    }
    return made;
  }

  /// One locality, whose weight gRPC multiplies with those of its endpoints in 32 bits: 1.
  Localities ring(const std::vector<Candidate>& members) {
    constexpr std::uint64_t finest =
        5040;  // what weights are divided into if the numbers of addresses differ much
    std::uint64_t parts = 1;
    for (const Candidate& each : members) {
      parts = std::min(std::lcm(parts, std::uint64_t{each.count}), finest);
    }
    Localities made{locality(members.front().tier, "ring")};
    std::vector<std::uint64_t> weights;
    for (const Candidate& each : members) {
      publish(each, made.front());
      const std::uint64_t weight = std::max<std::uint64_t>(each.weight * parts / each.count, 1);
      weights.insert(weights.end(), each.count, weight);
    }
    const std::vector<std::uint32_t> fitted = fit_weights(weights);
    for (std::size_t i = 0; i < fitted.size(); ++i) made.front().endpoints[i].weight = fitted[i];
    return made;
  }

  const PublicationRule& rule_;
  Rendezvous order_;
  std::vector<Candidate> candidates_;
  std::vector<ResolvedAddress> addresses_;
  std::unordered_set<Key, KeyHash> seen_;
};

}  // namespace detail

/// The endpoints of a cluster for one client. `instances`: by id, as a ServiceSnapshot has them.
/// `addresses_of`:
/// `(const ServiceInstance&)` to a range of ResolvedAddress; none yet or none at all leaves the instance out,
/// and so do a status other than Up and the weight 0. An address that two instances claim belongs to the
/// first of them. An instance with several addresses gets no more calls than with one.
template <class AddressesOf>
EndpointAssignment assign_endpoints(const std::vector<std::shared_ptr<const ServiceInstance>>& instances,
                                    AddressesOf&& addresses_of, const PublicationRule& rule) {
  detail::Publication publication(rule);
  publication.reserve(instances.size());
  for (const auto& instance : instances) publication.add(*instance, addresses_of);
  return publication.arrange();
}

}  // namespace registry
