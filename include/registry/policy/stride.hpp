// Weighted round robin as a schedule that is compiled once: exact shares in the long run, evenly interleaved, and
// each turn takes two steps on average whatever the weights are.
//
// One pass goes over the slots. An item of weight w has ceil(w / mean) of them, spread over the pass, and each is
// used in the same fraction of the passes, at even distances (a stride). Fractions are at least a half for all that
// weigh more than the mean, so a pass uses at least half of its slots.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

namespace registry::detail {

/// Where a reader is in a schedule. Any value is valid for any schedule.
struct StrideTurn {
  std::uint32_t slot = 0, pass = 0;
};

/// Immutable; each reader has a turn of its own.
class StrideSchedule {
 public:
  StrideSchedule() {}

  /// No weight may be 0.
  explicit StrideSchedule(const std::vector<std::uint32_t>& weights) {
    if (weights.empty()) return;
    const std::uint64_t sum = std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
    const std::uint64_t count = weights.size();
    const auto copies_of = [&](std::uint64_t weight) { return (weight * count + sum - 1) / sum; };
    std::uint64_t slots = 0;
    for (const std::uint32_t weight : weights) slots += copies_of(weight);
    // Places in the pass, by counting: a copy's place is a fraction of the pass.
    std::vector<std::uint32_t> end_of(slots + 1, 0);
    const auto each_copy = [&](auto&& visit) {
      for (std::uint32_t item = 0; item < count; ++item) {
        const std::uint64_t copies = copies_of(weights[item]);
        const std::uint64_t shift = std::uint32_t(item * golden);  // of 2^32 of a copy's distance
        for (std::uint64_t copy = 0; copy < copies; ++copy) {
          visit(item, copies, copy, (((copy << 32) + shift) / copies * slots) >> 32);
        }
      }
    };
    each_copy([&](std::uint32_t, std::uint64_t, std::uint64_t, std::uint64_t place) { ++end_of[place + 1]; });
    for (std::size_t place = 1; place <= slots; ++place) end_of[place] += end_of[place - 1];
    slots_.resize(slots);
    each_copy([&](std::uint32_t item, std::uint64_t copies, std::uint64_t copy, std::uint64_t place) {
      Slot& slot = slots_[end_of[place]++];
      slot.item = item;
      const std::uint64_t whole = copies * sum;
      slot.rate =
          static_cast<std::uint32_t>((std::uint64_t{weights[item]} * count * one + whole / 2) / whole);
      if (slot.rate == 0) slot.rate = 1;
      // Slots that are used now and then take their turns in different passes.
      slot.phase = static_cast<std::uint32_t>((item + copy) * golden) & (one - 1);
    });
  }

  bool empty() const noexcept { return slots_.empty(); }

  /// The next item; the schedule must not be empty.
  std::size_t next(StrideTurn& turn) const noexcept {
    for (;;) {
      if (turn.slot >= slots_.size()) {
        turn.slot = 0;
        ++turn.pass;
      }
      const Slot& slot = slots_[turn.slot++];
      const std::uint32_t at = (slot.phase + turn.pass * slot.rate) & (one - 1);
      if (at + slot.rate >= one) return slot.item;
    }
  }

 private:
  static constexpr std::uint32_t one = 1u << 31;  // every pass
  static constexpr std::uint32_t golden =
      2'654'435'769u;  // 2^32 / golden ratio: multiples of it spread evenly

  struct Slot {
    std::uint32_t item = 0, rate = one, phase = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace registry::detail
