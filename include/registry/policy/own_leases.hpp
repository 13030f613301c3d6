// The leases that a key of ours may be on: which are ours, and which of them are still renewed for it.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace registry::detail {

/// Leases by id, each with the TTL it was granted for. Not thread-safe.
class OwnLeases {
 public:
  /// A lease that is renewed for the key from now on. Returns an old one that is forgotten for it; 0: none.
  std::int64_t keep(std::int64_t id, std::chrono::seconds ttl) {
    std::erase_if(all_, [id](const Lease& each) { return each.id == id; });
    all_.push_back(Lease(id, ttl));
    if (all_.size() <= max_remembered) return 0;
    const auto oldest = std::find_if(all_.begin(), all_.end(), [](const Lease& each) { return !each.kept; });
    if (oldest == all_.end()) return 0;
    const std::int64_t forgotten = oldest->id;
    all_.erase(oldest);
    return forgotten;
  }

  /// It is renewed no more, but what is on it is still ours.
  void leave(std::int64_t id) {
    for (Lease& lease : all_) {
      if (lease.id == id) lease.kept = false;
    }
  }

  bool owns(std::int64_t id) const { return find(id) != nullptr; }
  bool keeps(std::int64_t id) const { return find(id) != nullptr && find(id)->kept; }

  /// The newest of this TTL that is kept; 0: none.
  std::int64_t newest(std::chrono::seconds ttl) const {
    std::int64_t id = 0;
    for (const Lease& lease : all_) {
      if (lease.kept && lease.ttl == ttl) id = lease.id;
    }
    return id;
  }

  std::optional<std::chrono::seconds> ttl_of(std::int64_t id) const {
    const Lease* lease = find(id);
    return lease != nullptr ? std::optional(lease->ttl) : std::nullopt;
  }

  /// All that are kept, but this one.
  std::vector<std::int64_t> kept_beside(std::int64_t id) const {
    std::vector<std::int64_t> ids;
    for (const Lease& lease : all_) {
      if (lease.kept && lease.id != id) ids.push_back(lease.id);
    }
    return ids;
  }

 private:
  static constexpr std::size_t max_remembered = 32;  // unless more are kept

  struct Lease {
    std::int64_t id;
    std::chrono::seconds ttl;
    bool kept = true;

    Lease(std::int64_t lease_id, std::chrono::seconds wanted) : id(lease_id), ttl(wanted) {}
  };

  const Lease* find(std::int64_t id) const {
    const auto found =
        std::find_if(all_.begin(), all_.end(), [id](const Lease& each) { return each.id == id; });
    return found == all_.end() ? nullptr : &*found;
  }

  std::vector<Lease> all_;  // the newest last
};

}  // namespace registry::detail
