// Who owns the key of one instance, and on which lease, decided without I/O: what is wanted, what was answered and
// what was seen of the key go in, the next guarded write comes out. Every fact carries the revision it was true
// at, so answers and observations may arrive in any order.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/model/config.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"
#include "registry/policy/own_leases.hpp"

namespace registry::detail {

/// What to do about a key now.
struct ClaimAction {
  enum Kind {
    None,       ///< wait for the next input
    Write,      ///< send `write`, then report written() or write_failed()
    NeedLease,  ///< get a lease of ttl(), then report lease()
    Displaced,  ///< another owner holds our key; final until desired again
    Conflict,   ///< the first claim was refused; final until desired again
    Done,       ///< nothing of ours is there, and nothing of ours can appear any more
  };
  Kind kind = None;
  registry::Write write;
  errc reason = errc::displaced;

  ClaimAction() {}
  explicit ClaimAction(Kind what) : kind(what) {}
};

/// The claim of one key. The first claim after desire() may take the key over from another lease, by one
/// compare-and-swap; every later claim only creates the key or renews what is ours, so a zombie never evicts
/// its successor. A key without a lease is never taken. After desire_absent() only what is ours is deleted,
/// also a write of ours that lands late. At most one write is under way.
///
/// The key may be on any of the leases that are kept for it, but belongs on one of the wanted TTL. When another TTL is
/// wanted one write moves it there, and until that is confirmed every lease on which it may be is kept.
/// Not thread-safe.
class Claim {
 public:
  Claim(std::string key, ConflictPolicy policy) : key_(std::move(key)), policy_(policy) {}

  /// The key shall hold this value on a lease of this TTL: an update, or a new explicit claim if nothing is wanted at
  /// the moment.
  void desire(std::string value, std::chrono::seconds ttl = {}) {
    if (!wanted_) restart(true);
    desired_ = std::move(value);
    ttl_ = ttl;
  }

  /// The key shall not be ours.
  void desire_absent() {
    if (wanted_) restart(false);
  }

  /// Gives an update up: wanted is what the store holds for us, or held before the key was lost, on a lease of that TTL.
  void revert() {
    if (known_ == 0 && !claimed_) return;
    desired_ = stored_;
    ttl_ = stored_ttl_;
  }

  /// A lease that is renewed for the key from now on. If it is of the wanted TTL the key goes there.
  void lease(std::int64_t id, std::chrono::seconds ttl = {}) {
    if (const std::int64_t forgotten = leases_.keep(id, ttl)) forget_doubts(forgotten);
  }

  /// A lease is given up: what is on it stays ours until it is gone.
  void leave(std::int64_t id) { leases_.leave(id); }

  /// Leases to give up: the key is where it is wanted, and not on these.
  std::vector<std::int64_t> spare_leases() const {
    return settled() ? leases_.kept_beside(held_) : std::vector<std::int64_t>();
  }

  /// A lease of ours is gone, or is no longer renewed and will be: nothing that was sent under it stays.
  void lease_gone(std::int64_t id, std::error_code reason) {
    const bool left_behind = id != current_lease();
    const bool was_there = may_be_on(id);
    leave(id);
    forget_doubts(id);
    if (!was_there) return;
    known_ = 0;
    if (wanted_ && claimed_) lose(left_behind && denied_ ? denied_ : reason);
  }

  /// The answer to the write that next() asked for, and the revision of the commit.
  void written(const Written& result, std::int64_t revision) {
    const Pending sent = take_pending();
    denied_.clear();
    // Whoever answers with less than was known when it was asked is a restored store: what we know is void.
    if (revision < sent.floor) seen_ = counted_ = 0;
    const bool created = result.applied && sent.creates();
    if (sent.landed != 0 && !(created && sent.landed == revision)) resolve_create(sent.write.lease);
    if (!result.applied) {
      learn(result.found ? &*result.found : nullptr, revision, true);
      return;
    }
    if (!sent.write.value) {
      learn(nullptr, revision, true);
      return;
    }
    if (created) counted_ = std::max(counted_, revision);
    if (revision < seen_) {  // the guard has shown what came after it
      if (wanted_ && !std::exchange(claimed_, true)) judge_holder();
      return;
    }
    KeyValue kv;
    kv.key = key_;
    kv.value = *sent.write.value;
    kv.mod_revision = revision;
    kv.create_revision = created ? revision : 0;
    kv.lease = sent.write.lease;
    learn(&kv, revision, true);
  }

  /// The write failed. If it may have been applied nevertheless, next() repeats it: its guard makes that
  /// safe.
  void write_failed(std::error_code error) {
    const Pending sent = take_pending();
    if (!is_indeterminate(error)) {
      if (!is_retryable(error)) denied_ = error;
      if (sent.landed != 0) resolve_create(sent.write.lease);
      return;
    }
    if (sent.write.expected == 0) {
      if (sent.write.value && sent.landed == 0) doubt_create(sent.write.lease);
      return;
    }
    if (sent.takes) spent_ = true;
    if (!sent.moved) doubt_swap(sent.write);
  }

  /// The key guard saw the key: `kv` at revision `at` of the store, null for absent. Old news are ignored.
  void observed(const KeyValue* kv, std::int64_t at) { learn(kv, at, false); }

  /// The store was restored to an older state: what is known of the key is void and must be found out again.
  void forget() {
    seen_ = counted_ = known_ = 0;
    foreign_ = false;
    swaps_.clear();
    probed_ = false;
    if (wanted_ && claimed_) lose(make_error_code(errc::store_changed));
  }

  /// Nothing shows us the key: look for late writes of ours again.
  void probe() { probed_ = false; }

  ClaimAction next() {
    if (pending_) return ClaimAction();
    if (verdict_ != ClaimAction::None) {
      ClaimAction action(verdict_);
      action.reason = reason_;
      return action;
    }
    if (!wanted_) return release();
    const std::int64_t lease = current_lease();
    if (lease == 0) return ClaimAction(ClaimAction::NeedLease);
    if (settled()) return ClaimAction();
    return send(desired_, lease, known_ != 0 ? known_ : take_);
  }

  /// The key is ours, under the current lease, with the wanted value, and no write of ours can change that.
  bool settled() const {
    return wanted_ && !pending_ && verdict_ == ClaimAction::None && known_ != 0 && held_ == current_lease() &&
           stored_ == desired_ && swaps_.empty();
  }

  /// Where the key belongs: the newest lease of the wanted TTL that is kept. 0: there is none.
  std::int64_t current_lease() const { return leases_.newest(ttl_); }

  /// Absent is wanted and the store has confirmed it, but a write of ours may still land on a lease that
  /// lives.
  bool lingering() const { return !wanted_ && !pending_ && known_ == 0 && doubtful() && probed_; }

  bool wanted() const { return wanted_; }
  /// The wanted TTL.
  std::chrono::seconds ttl() const { return ttl_; }
  /// Claimed and lost, not yet claimed again; lost_why() says why.
  bool lost() const { return lost_; }
  std::error_code lost_why() const { return lost_why_; }
  /// The revision that wrote the key; 0 while it is not ours.
  std::int64_t revision() const { return known_; }
  const std::string& key() const { return key_; }

  /// Leases under which a write of ours may still land.
  std::vector<std::int64_t> doubtful_leases() const {
    std::vector<std::int64_t> ids;
    for (const auto& [lease, count] : creates_) ids.push_back(lease);
    for (const auto& swap : swaps_) {
      if (swap.lease != 0) ids.push_back(swap.lease);
    }
    return ids;
  }

 private:
  struct Pending {
    registry::Write write;
    std::int64_t floor = 0;  // what we knew when it was sent
    std::int64_t landed =
        0;  // a create under its lease that was seen meanwhile: this one, or an earlier one in doubt
    bool takes = false;  // from another owner
    bool moved = false;  // the key was seen at another revision than it expects: it has landed or never will

    bool creates() const { return write.value && write.expected == 0; }
  };

  /// A write that replaces or deletes (no lease) what is there at revision `expected`.
  struct Swap {
    std::int64_t lease = 0, expected = 0;
  };

  void restart(bool wanted) {
    wanted_ = wanted;
    claimed_ = lost_ = spent_ = probed_ = false;
    take_ = 0;
    verdict_ = ClaimAction::None;
  }

  ClaimAction send(std::optional<std::string> value, std::int64_t lease, std::int64_t expected) {
    ClaimAction action(ClaimAction::Write);
    action.write = registry::Write(key_, std::move(value), lease, expected);
    Pending pending;
    pending.write = action.write;
    pending.floor = seen_;
    pending.takes = expected != 0 && known_ == 0;
    pending_ = std::move(pending);
    return action;
  }

  ClaimAction release() {
    if (known_ != 0) return send(std::nullopt, 0, known_);
    if (!doubtful()) return ClaimAction(ClaimAction::Done);
    if (!probed_) return send(std::nullopt, 0, 0);  // always refused: it shows what is there
    return ClaimAction();
  }

  Pending take_pending() {
    Pending sent = pending_ ? std::move(*pending_) : Pending();
    pending_.reset();
    return sent;
  }

  // The state of the key at revision `at`. Only an answer to our own write settles a first claim.
  void learn(const KeyValue* kv, std::int64_t at, bool answer) {
    if (at < seen_) return;
    seen_ = at;
    probed_ = !wanted_;
    const std::int64_t mod = kv != nullptr ? kv->mod_revision : 0;
    std::erase_if(swaps_, [mod](const Swap& swap) { return swap.expected != mod; });
    if (pending_ && mod != pending_->write.expected) pending_->moved = true;
    foreign_ = kv != nullptr && !leases_.owns(kv->lease);
    foreign_lease_ = foreign_ ? kv->lease : 0;
    if (kv != nullptr && !foreign_) {
      adopt(*kv);
      return;
    }
    known_ = 0;
    if (kv == nullptr) take_ = 0;
    if (!wanted_) return;
    if (claimed_) {
      judge_holder();
    } else if (foreign_ && answer) {
      refused(*kv);
    }
  }

  void adopt(const KeyValue& kv) {
    if (kv.create_revision == kv.mod_revision && kv.mod_revision > counted_) {
      counted_ = kv.mod_revision;
      if (pending_ && pending_->creates() && pending_->write.lease == kv.lease) {
        pending_->landed = kv.mod_revision;
      } else {
        resolve_create(kv.lease);
      }
    }
    known_ = kv.mod_revision;
    held_ = kv.lease;
    stored_ = kv.value;
    stored_ttl_ = leases_.ttl_of(held_).value_or(stored_ttl_);
    take_ = 0;
    if (!wanted_) return;
    claimed_ = true;
    if (leases_.keeps(held_)) lost_ = false;
  }

  // A key that was ours is not ours any more.
  void judge_holder() {
    if (foreign_) {
      verdict_ = ClaimAction::Displaced;
      reason_ = foreign_lease_ == 0 ? errc::unleased_key : errc::displaced;
    } else if (known_ == 0) {
      // On a lease of ours that is no longer kept it went with that lease: it could not be moved in time.
      const bool left_behind = !leases_.keeps(held_) && current_lease() != 0;
      lose(!left_behind ? make_error_code(errc::key_deleted)
           : denied_    ? denied_
                        : make_error_code(errc::lease_lost));
    }
  }

  // The first claim met another owner. If a take-over of ours is in doubt it may have been done and this be
  // our successor.
  void refused(const KeyValue& holder) {
    if (holder.lease != 0 && policy_ == ConflictPolicy::TakeOver && !spent_) {
      take_ = holder.mod_revision;
      return;
    }
    verdict_ = ClaimAction::Conflict;
    reason_ = holder.lease == 0 ? errc::unleased_key : errc::conflict;
  }

  void lose(std::error_code reason) {
    known_ = 0;
    if (std::exchange(lost_, true)) return;
    lost_why_ = reason;
  }

  // The key was seen under this lease, or a write that is not answered may have put it there.
  bool may_be_on(std::int64_t lease) const {
    return (known_ != 0 && held_ == lease) || may_swap(lease) ||
           (pending_ && pending_->write.value && pending_->write.lease == lease);
  }

  bool doubtful() const {
    return !creates_.empty() ||
           std::any_of(swaps_.begin(), swaps_.end(), [](const Swap& swap) { return swap.lease != 0; });
  }

  bool may_swap(std::int64_t lease) const {
    return lease != 0 && std::any_of(swaps_.begin(), swaps_.end(),
                                     [lease](const Swap& swap) { return swap.lease == lease; });
  }

  void doubt_swap(const registry::Write& write) {
    const std::int64_t lease = write.value ? write.lease : 0;
    std::erase_if(swaps_, [lease](const Swap& swap) { return swap.lease == lease; });
    swaps_.push_back(Swap{lease, write.expected});
  }

  void doubt_create(std::int64_t lease) {
    for (auto& [id, count] : creates_) {
      if (id == lease) {
        ++count;
        return;
      }
    }
    creates_.emplace_back(lease, 1);
  }

  void resolve_create(std::int64_t lease) {
    for (auto& [id, count] : creates_) {
      if (id == lease) --count;
    }
    std::erase_if(creates_, [](const auto& each) { return each.second == 0; });
  }

  void forget_doubts(std::int64_t lease) {
    std::erase_if(creates_, [lease](const auto& each) { return each.first == lease; });
    std::erase_if(swaps_, [lease](const Swap& swap) { return lease != 0 && swap.lease == lease; });
  }

  const std::string key_;
  const ConflictPolicy policy_;

  bool wanted_ = false;
  std::string desired_;
  std::chrono::seconds ttl_{0};
  OwnLeases leases_;

  std::int64_t seen_ = 0;   // the newest revision at which we know the key's state
  std::int64_t known_ = 0;  // its mod_revision if it is ours, with stored_ under held_
  std::int64_t held_ = 0;
  std::string stored_;  // what was seen there last, and the TTL of its lease
  std::chrono::seconds stored_ttl_{0};
  bool foreign_ = false;  // it is another owner's
  std::int64_t foreign_lease_ = 0;

  bool claimed_ = false;   // since desire(): from now on nobody is evicted
  bool spent_ = false;     // a take-over may have been done
  std::int64_t take_ = 0;  // the other owner's revision that may be replaced
  bool lost_ = false;
  std::error_code lost_why_;
  std::error_code denied_;  // why the last write was refused for good
  bool probed_ = false;     // the key was seen since desire_absent()
  ClaimAction::Kind verdict_ = ClaimAction::None;
  errc reason_ = errc::displaced;

  std::optional<Pending> pending_;
  // In doubt: creates, which can land whenever the key is absent and their lease lives, counted for each
  // lease; and swaps, one of each lease, which can land only while the key is at the revision they expect.
  std::vector<std::pair<std::int64_t, std::size_t>> creates_;
  std::int64_t counted_ = 0;  // the newest create of ours that was seen to land
  std::vector<Swap> swaps_;
};

}  // namespace registry::detail
