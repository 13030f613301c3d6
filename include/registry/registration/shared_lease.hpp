// One lease and the keys that live on it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <vector>

#include "registry/async/signal.hpp"
#include "registry/policy/renewal.hpp"

namespace registry::detail {

struct SharedLease;

/// Whoever has a key on a lease. Called on the strand of the leases.
class LeaseMember {
 public:
  virtual ~LeaseMember() = default;
  /// The lease is lost or has ended.
  virtual void lease_gone(std::int64_t id, std::error_code reason) = 0;
  /// The member has been put on another lease; its key follows, before the old lease ends.
  virtual void lease_moved(std::int64_t from, std::shared_ptr<SharedLease> to) = 0;
  /// The lease cannot be renewed because of this member's key: share none from now on.
  virtual void lease_denied() = 0;
};

/// Lives on the strand of its LeasePool.
struct SharedLease {
  enum State {
    Live,       ///< renewed
    Unused,     ///< without members: to be revoked
    Abandoned,  ///< its members move to other leases; not renewed
    Gone,
  };

  SharedLease(std::int64_t lease_id, std::chrono::seconds wanted, LeaseRenewal::TimePoint sent,
              std::chrono::seconds granted)
      : id(lease_id), wanted_ttl(wanted), renewal(sent, granted) {}

  const std::int64_t id;
  const std::chrono::seconds wanted_ttl;
  LeaseRenewal renewal;
  State state = Live;
  bool open = true;      ///< others may attach
  bool suspect = false;  ///< may hold the key that spoilt another lease: opens with the first renewal
  std::error_code last_error;
  Signal wake;  ///< of its renewal

  static constexpr std::size_t max_members = 1000;

  bool takes_more(LeaseRenewal::TimePoint now) const {
    return state == Live && open && members_.size() < max_members && renewal.fresh(now);
  }

  void add(const std::shared_ptr<LeaseMember>& member) { members_[member.get()] = member; }
  bool remove(const LeaseMember* member) { return members_.erase(member) != 0; }
  bool has(const LeaseMember* member) const { return members_.contains(member); }
  std::size_t size() const { return members_.size(); }
  std::vector<std::shared_ptr<LeaseMember>> members() const { return alive(members_); }

  /// Tells `member` when the lease ends, without keeping it for that.
  void watch(const std::shared_ptr<LeaseMember>& member) { watchers_[member.get()] = member; }
  std::vector<std::shared_ptr<LeaseMember>> take_watchers() { return alive(std::exchange(watchers_, {})); }

 private:
  // Members own their lease, not the other way round.
  using Members = std::unordered_map<const LeaseMember*, std::weak_ptr<LeaseMember>>;

  static std::vector<std::shared_ptr<LeaseMember>> alive(const Members& members) {
    std::vector<std::shared_ptr<LeaseMember>> result;
    for (const auto& [pointer, weak] : members) {
      if (auto member = weak.lock()) result.push_back(std::move(member));
    }
    return result;
  }

  Members members_, watchers_;
};

}  // namespace registry::detail
