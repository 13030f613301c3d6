// Turns the answers of one etcd watch into whole revisions, each delivered once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <optional>
#include <utility>
#include <vector>

#include "registry/model/kv.hpp"

namespace registry {

/// One watch, from `from` on. Servers repeat events, step back and split revisions (etcd issues 15220, 15271,
/// 15274, 20221): what is delivered is in order, unique and whole, and the bookmark never falls.
///
/// Thread safety: none of its own; keep it on one strand.
class WatchAssembly {
 public:
  /// A watch from revision `from` on.
  explicit WatchAssembly(std::int64_t from) : next_(from) {}

  /// The revision to resume from.
  std::int64_t next() const noexcept { return next_; }

  /// Events dropped because they had been delivered before.
  std::uint64_t dropped() const noexcept { return dropped_; }

  /// An answer with events. `fragment`: more of the same revisions follow. `head` is its header's revision:
  /// with a catch-up answer that is far ahead of the last event and therefore no bookmark.
  std::optional<Batch> events(std::int64_t head, bool fragment, std::vector<Change> changes) {
    if (partial_.empty()) {
      partial_ = std::move(changes);
    } else {
      partial_.insert(partial_.end(), std::make_move_iterator(changes.begin()),
                      std::make_move_iterator(changes.end()));
    }
    if (fragment) return std::nullopt;
    Batch batch;
    batch.head = head;
    batch.changes = std::move(partial_);
    partial_.clear();
    const std::size_t arrived = batch.changes.size();
    std::erase_if(batch.changes, [this](const Change& change) { return change.kv.mod_revision < next_; });
    dropped_ += arrived - batch.changes.size();
    if (batch.changes.empty()) return std::nullopt;
    // What a server mixes up is put in order here, so that nobody behind has to look for it.
    const auto older = [](const Change& one, const Change& other) {
      return one.kv.mod_revision < other.kv.mod_revision;
    };
    if (!std::is_sorted(batch.changes.begin(), batch.changes.end(), older))
      std::stable_sort(batch.changes.begin(), batch.changes.end(), older);
    next_ = batch.changes.back().kv.mod_revision + 1;
    batch.through = next_ - 1;
    return batch;
  }

  /// The server says that this watch has seen everything up to `revision`. Not for stream-wide progress
  /// (watch id -1).
  std::optional<Batch> progress(std::int64_t revision) {
    if (revision < next_ || !partial_.empty()) return std::nullopt;
    next_ = revision + 1;
    Batch batch;
    batch.head = batch.through = revision;
    return batch;
  }

 private:
  std::int64_t next_;
  std::uint64_t dropped_ = 0;
  std::vector<Change> partial_;
};

}  // namespace registry
