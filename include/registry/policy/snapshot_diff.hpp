// What changed between the keys we know and a fresh list of them: after a compaction or a restart of the
// store the events in between are gone, and this is what stands in for them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace registry {

/// A key and the revision that wrote it. (A KeyValue serves as well: the diff needs these two members only.)
struct KnownKey {
  std::string_view key;           ///< must outlive this
  std::int64_t mod_revision = 0;  ///< that wrote it last

  KnownKey() {}
  /// These two.
  KnownKey(std::string_view k, std::int64_t revision) : key(k), mod_revision(revision) {}
};

/// What to do to get from the known keys to the listed ones. Apply the removals first.
struct SnapshotDiff {
  std::vector<std::size_t> removed;  ///< positions in the known keys
  std::vector<std::size_t>
      written;  ///< positions in the list: new keys and changed ones, in the list's order

  SnapshotDiff() {}
  /// Whether nothing changed.
  bool empty() const noexcept { return removed.empty() && written.empty(); }
};

/// Compares two sequences, both sorted by key without repeats. A listed key counts as written unless it is
/// known at the very same revision: a lower one means that the store was restored, and the value is another
/// one. `same_history` false (the store was replaced, or may have been restored and gone past our revision):
/// equal revisions prove nothing, every listed key counts as written.
template <class Known, class Listed>
SnapshotDiff snapshot_diff(const Known& known, const Listed& listed, bool same_history = true) {
  SnapshotDiff diff;
  auto old = known.begin();
  auto fresh = listed.begin();
  std::size_t old_at = 0, fresh_at = 0;
  while (old != known.end() || fresh != listed.end()) {
    const bool only_old = fresh == listed.end() || (old != known.end() && old->key < fresh->key);
    const bool only_fresh = !only_old && (old == known.end() || fresh->key < old->key);
    if (only_old) {
      diff.removed.push_back(old_at);
    } else if (only_fresh || !same_history || fresh->mod_revision != old->mod_revision) {
      diff.written.push_back(fresh_at);
    }
    if (!only_fresh) ++old, ++old_at;
    if (!only_old) ++fresh, ++fresh_at;
  }
  return diff;
}

}  // namespace registry
