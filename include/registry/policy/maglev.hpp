// Consistent hashing by Maglev's table (Eisenbud et al., NSDI 2016), with weights. Chosen over a ring: a pick is one
// read, and every item has its share of the table to a few entries, where a ring needs thousands of points for 3 %.
// The price: when an item goes, a few per cent of the entries of others move as well.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "registry/policy/rendezvous.hpp"

namespace registry::detail {

inline bool is_prime(std::size_t number) noexcept {
  if (number < 2) return false;
  for (std::size_t divisor = 2; divisor * divisor <= number; ++divisor) {
    if (number % divisor == 0) return false;
  }
  return true;
}

class MaglevTable {
 public:
  struct Item {
    std::string_view id;
    std::uint32_t weight = 1;  // not 0
  };

  MaglevTable() {}

  /// `size` is a prime. The same items in the same order make the same table everywhere.
  MaglevTable(const std::vector<Item>& items, std::size_t size) {
    if (items.empty()) return;
    constexpr auto free = std::numeric_limits<std::uint32_t>::max();
    entries_.assign(size, free);
    struct Cursor {
      std::size_t at, skip;
      std::uint64_t credit = 0;
    };
    std::vector<Cursor> cursors;
    cursors.reserve(items.size());
    std::uint32_t heaviest = 0;
    for (const Item& item : items) {
      const std::uint64_t hash = hash_text(item.id);
      cursors.push_back(
          {static_cast<std::size_t>(hash % size), static_cast<std::size_t>(mix_bits(hash) % (size - 1)) + 1});
      heaviest = std::max(heaviest, item.weight);
    }
    // In turns; in each the heaviest takes one entry, and a lighter one when its weights have added up to one.
    for (std::size_t taken = 0;;) {
      for (std::uint32_t i = 0; i < items.size(); ++i) {
        Cursor& cursor = cursors[i];
        cursor.credit += items[i].weight;
        if (cursor.credit < heaviest) continue;
        cursor.credit -= heaviest;
        while (entries_[cursor.at] != free) cursor.at = after(cursor.at, cursor.skip, size);
        entries_[cursor.at] = i;
        if (++taken == size) return;
      }
    }
  }

  bool empty() const noexcept { return entries_.empty(); }
  std::size_t size() const noexcept { return entries_.size(); }

  /// The item for a well-mixed hash (mix_bits, hash_text); the table must not be empty.
  std::size_t find(std::uint64_t hash) const noexcept { return entries_[hash % entries_.size()]; }

 private:
  static std::size_t after(std::size_t at, std::size_t skip, std::size_t size) noexcept {
    return at + skip < size ? at + skip : at + skip - size;
  }

  std::vector<std::uint32_t> entries_;
};

}  // namespace registry::detail
