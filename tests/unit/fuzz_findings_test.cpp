// What fuzzing found (tests/fuzz), each as the few lines that it comes down to.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "registry/policy/watch_assembly.hpp"
#include "registry/policy/watch_resume.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {

std::vector<Change> changes(std::initializer_list<std::int64_t> revisions) {
  std::vector<Change> all;
  for (const std::int64_t revision : revisions) all.emplace_back().kv.mod_revision = revision;
  return all;
}

}  // namespace

TEST_CASE(
    "fuzz findings: of a mixed up answer, what was delivered is left out and the newest counts, wherever "
    "they stand") {
  const WatchResume::TimePoint now{};
  WatchResume resume(100ms, 3000ms, 600s);
  resume.listed("", 10, now, 0);
  resume.started();
  WatchAssembly watch(resume.watch_from());  // 10, which the list had
  Batch first;
  first.head = 13;
  first.through = watch.next() - 1;
  REQUIRE(resume.batch(first, now).kind == WatchAction::Deliver);
  const auto batch = watch.events(13, false, changes({11, 13, 10}));
  REQUIRE(batch);
  std::vector<std::int64_t> order;
  for (const Change& change : batch->changes) order.push_back(change.kv.mod_revision);
  CHECK(order == std::vector<std::int64_t>{10, 11, 13});
  const WatchAction action = resume.batch(*batch, now);
  CHECK(action.kind == WatchAction::DeliverFrom);
  CHECK(action.from == 11);
  CHECK(resume.next() == 14);
}
