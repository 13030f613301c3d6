// Which writes go into one commit: first in first out for each key, within the store's limits; and how a
// commit that failed as a whole is taken apart until only the guilty write fails. Decided without I/O.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"

namespace registry::detail {

/// A queue of writes. Everything that queued while commits were under way goes together; a key that is in a
/// commit waits for its end. Not thread-safe.
class CommitGroups {
 public:
  using Ticket = std::uint64_t;

  /// A write as far as grouping needs to know it.
  struct Item {
    Ticket ticket = 0;
    std::string key;
    std::int64_t lease = 0;
    std::size_t bytes = 0;

    Item() {}
    Item(Ticket number, const Write& write)
        : ticket(number),
          key(write.key),
          lease(write.value ? write.lease : 0),
          // The key travels three times (compare, put, else read); the rest is what surrounds them.
          bytes(3 * write.key.size() + (write.value ? write.value->size() : 0) + 64) {}
  };
  using Group = std::vector<Item>;

  /// What failed() decided: these get the error, the others are tried again in smaller groups.
  struct Verdict {
    Group failed;
    Verdict() {}
  };

  explicit CommitGroups(Limits limits) : limits_(limits) {}

  /// Queues a write; tickets rise.
  void add(Item item) {
    queued_bytes_ += item.bytes;
    queue_.push_back(std::move(item));
  }

  /// Whether there is something to commit, unless it waits for a commit under way.
  bool waiting() const { return !queue_.empty() || !parts_.empty(); }

  /// Whether what is queued fills a commit: to wait for more is of no use.
  bool full() const { return queue_.size() >= limits_.writes || queued_bytes_ >= limits_.bytes; }

  /// Takes a write back that is still queued. False: it is in a commit.
  bool remove(Ticket ticket) {
    // Searched by halves, as the queue is in order: asked for each write that is done, while thousands may wait.
    const auto at = std::lower_bound(queue_.begin(), queue_.end(), ticket,
                                     [](const Item& item, Ticket number) { return item.ticket < number; });
    if (at == queue_.end() || at->ticket != ticket) return false;
    queued_bytes_ -= at->bytes;
    queue_.erase(at);
    return true;
  }

  /// The next commit; empty if nothing is queued, or everything waits for a commit under way.
  Group next() {
    Group group;
    if (!parts_.empty()) {
      group = std::move(parts_.front());
      parts_.pop_front();
      return group;  // its keys are still busy
    }
    std::unordered_set<std::string> passed;  // keys of which an earlier write stays behind
    std::deque<Item> rest;
    std::size_t bytes = 0;
    bool full = false;
    while (!queue_.empty() && !full) {
      Item& item = queue_.front();
      const bool waits = busy_.contains(item.key) || passed.contains(item.key);
      full =
          !waits && !group.empty() && (group.size() >= limits_.writes || bytes + item.bytes > limits_.bytes);
      if (full) break;
      if (waits) {
        passed.insert(item.key);
        rest.push_back(std::move(item));
      } else {
        bytes += item.bytes;
        queued_bytes_ -= item.bytes;
        busy_.insert(item.key);
        group.push_back(std::move(item));
      }
      queue_.pop_front();
    }
    for (; !rest.empty(); rest.pop_back()) queue_.push_front(std::move(rest.back()));
    return group;
  }

  /// A commit ended and every write in it has its answer.
  void done(const Group& group) {
    for (const Item& item : group) busy_.erase(item.key);
  }

  /// A commit failed. Where one write may have spoilt it for the others, those are tried again; the ones
  /// returned get the error. done() is implied for them.
  Verdict failed(Group group, std::error_code error) {
    Verdict verdict;
    if (group.size() > 1 && error == errc::lease_lost && split_by_lease(group)) {
      // Writes without a lease go again, and each lease stands for itself.
    } else if (group.size() > 1 && one_may_be_guilty(error)) {
      const auto middle = group.begin() + static_cast<std::ptrdiff_t>(group.size() / 2);
      parts_.emplace_back(std::make_move_iterator(group.begin()), std::make_move_iterator(middle));
      parts_.emplace_back(std::make_move_iterator(middle), std::make_move_iterator(group.end()));
    } else {
      done(group);
      verdict.failed = std::move(group);
    }
    return verdict;
  }

  /// A definite refusal of the whole commit that a single write in it explains.
  static bool one_may_be_guilty(std::error_code error) {
    return error == errc::invalid_argument || error == errc::too_large || error == errc::permission_denied;
  }

 private:
  // One part for each lease: with 100 keys on a dead lease, halving would cost 200 commits to say one thing.
  // False if all have the same lease: then it is gone for all of them.
  bool split_by_lease(Group& group) {
    std::stable_sort(group.begin(), group.end(),
                     [](const Item& a, const Item& b) { return a.lease < b.lease; });
    if (group.front().lease == group.back().lease) return false;
    for (auto from = group.begin(); from != group.end();) {
      const auto to =
          std::find_if(from, group.end(), [&](const Item& item) { return item.lease != from->lease; });
      parts_.emplace_back(std::make_move_iterator(from), std::make_move_iterator(to));
      from = to;
    }
    return true;
  }

  const Limits limits_;
  std::deque<Item> queue_;
  std::size_t queued_bytes_ = 0;
  std::deque<Group> parts_;               // of failed commits; they go first
  std::unordered_set<std::string> busy_;  // keys in commits and parts
};

}  // namespace registry::detail
