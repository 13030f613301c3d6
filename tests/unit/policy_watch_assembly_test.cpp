// One etcd watch put together from its answers: whole revisions, each once, the bookmark never falling.
#include <doctest/doctest.h>

#include <cstdint>
#include <initializer_list>
#include <random>
#include <vector>

#include "registry/policy/watch_assembly.hpp"
#include "rig/seed.hpp"

using namespace registry;

namespace {

std::vector<Change> changes(std::initializer_list<std::int64_t> revisions) {
  std::vector<Change> all;
  for (const auto revision : revisions) {
    Change& change = all.emplace_back();
    change.kv.key = "k" + std::to_string(all.size());
    change.kv.mod_revision = revision;
  }
  return all;
}

std::vector<std::int64_t> revisions(const std::optional<Batch>& batch) {
  std::vector<std::int64_t> all;
  if (batch) {
    for (const auto& change : batch->changes) all.push_back(change.kv.mod_revision);
  }
  return all;
}

using Revisions = std::vector<std::int64_t>;

}  // namespace

TEST_CASE("watch assembly: resumes behind the last event, not at the header's revision") {
  WatchAssembly watch(5);
  const auto batch = watch.events(2511, false, changes({5, 6, 7}));
  CHECK(revisions(batch) == Revisions{5, 6, 7});
  CHECK(batch->head == 2511);
  CHECK(batch->through == 7);
  CHECK(watch.next() == 8);
}

TEST_CASE("watch assembly: a revision split into fragments comes whole, and only then counts") {
  WatchAssembly watch(5);
  CHECK_FALSE(watch.events(9, true, changes({5, 9})));
  CHECK(watch.next() == 5);
  CHECK_FALSE(watch.events(9, true, changes({9})));
  CHECK_FALSE(watch.progress(20));  // not between the parts of one answer
  CHECK(revisions(watch.events(9, false, changes({9}))) == Revisions{5, 9, 9, 9});
  CHECK(watch.next() == 10);
}

TEST_CASE("watch assembly: events that were delivered before are dropped and counted") {
  WatchAssembly watch(5);
  CHECK(watch.events(7, false, changes({5, 6, 7})));
  CHECK_FALSE(watch.events(7, false, changes({6, 7})));
  CHECK(revisions(watch.events(9, false, changes({3, 7, 8, 9}))) == Revisions{8, 9});
  CHECK(watch.dropped() == 4);
}

TEST_CASE("watch assembly: an answer out of order is not asked for again") {
  WatchAssembly watch(12);
  CHECK(watch.events(13, false, changes({12, 13, 12})));
  CHECK(watch.next() == 14);
  CHECK_FALSE(watch.events(13, false, changes({13})));
}

TEST_CASE("watch assembly: progress moves the bookmark up and never down") {
  WatchAssembly watch(100);
  CHECK_FALSE(watch.progress(50));  // servers below 3.5.22 say so of a watch in the future
  CHECK(watch.next() == 100);
  const auto batch = watch.progress(120);
  CHECK(batch->through == 120);
  CHECK(batch->changes.empty());
  CHECK(watch.next() == 121);
  CHECK_FALSE(watch.progress(119));
  CHECK(watch.next() == 121);
}

TEST_CASE("watch assembly: random repetitions, splits and steps back deliver every revision once, in order") {
  std::mt19937_64 random(rig::test_seed("watch assembly"));
  for (int round = 0; round < 200; ++round) {
    WatchAssembly watch(1);
    Revisions delivered;
    std::int64_t sent = 0;
    while (sent < 50) {
      std::vector<Change> answer;
      std::int64_t from = sent + 1;
      if (random() % 4 == 0) from = 1 + static_cast<std::int64_t>(random() % static_cast<unsigned>(sent + 1));
      const std::int64_t to = from + static_cast<std::int64_t>(random() % 5);
      for (auto revision = from; revision <= to; ++revision) {
        Change& change = answer.emplace_back();
        change.kv.mod_revision = revision;
      }
      sent = std::max(sent, to);
      if (answer.size() > 1 && random() % 3 == 0) {
        std::vector<Change> head(answer.begin(), answer.begin() + 1);
        CHECK_FALSE(watch.events(sent, true, head));
        answer.erase(answer.begin());
      }
      const auto before = watch.next();
      const auto batch = watch.events(sent, false, answer);
      CHECK(watch.next() >= before);
      if (batch) {
        CHECK(batch->through == watch.next() - 1);
        for (const auto revision : revisions(batch)) delivered.push_back(revision);
      }
    }
    Revisions expected;
    for (std::int64_t revision = 1; revision <= sent; ++revision) expected.push_back(revision);
    CHECK(delivered == expected);
  }
}
