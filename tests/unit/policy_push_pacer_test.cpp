// When changes are pushed, as transcripts: nothing waits for a clock.
#include <doctest/doctest.h>

#include <cstdlib>
#include <iostream>
#include <random>
#include <vector>

#include "registry/policy/push_pacer.hpp"
#include "rig/seed.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {
const PushPacer::TimePoint start{};
}

TEST_CASE("push pacer: the first change goes at once, nothing goes without one") {
  PushPacer pacer;
  CHECK_FALSE(pacer.due(start));
  pacer.changed();
  CHECK(pacer.due(start) == start);
  CHECK(pacer.due(start + 7s) == start + 7s);
  pacer.pushed(start);
  CHECK_FALSE(pacer.due(start));
  CHECK_FALSE(pacer.due(start + 1h));
}

TEST_CASE("push pacer: a burst is folded, and its last state is sent") {
  PushPacer pacer(20);
  pacer.changed();
  pacer.pushed(start);
  for (int i = 0; i < 100; ++i) pacer.changed();
  CHECK(pacer.due(start + 1ms) == start + 50ms);
  pacer.changed();
  CHECK(pacer.due(start + 49ms) == start + 50ms);  // more changes do not put it off
  CHECK(pacer.due(start + 80ms) == start + 80ms);  // a late timer
  pacer.pushed(start + 80ms);
  CHECK_FALSE(pacer.due(start + 81ms));
  pacer.changed();  // while the push was on its way
  CHECK(pacer.due(start + 81ms) == start + 130ms);
}

TEST_CASE("push pacer: at once again after a quiet time") {
  PushPacer pacer(20);
  pacer.changed();
  pacer.pushed(start);
  pacer.changed();
  CHECK(pacer.due(start + 50ms) == start + 50ms);
  pacer.pushed(start + 50ms);
  pacer.changed();
  CHECK(pacer.due(start + 10s) == start + 10s);
}

TEST_CASE("push pacer: never more than the rate in a second, and every change is pushed, at odd rates, too") {
  std::mt19937_64 random(rig::test_seed("push pacer"));
  for (const unsigned rate : {0u, 1u, 3u, 7u, 20u, 1'000'000'000u}) {
    PushPacer pacer(rate);
    std::vector<PushPacer::TimePoint> pushes;
    PushPacer::TimePoint now = start, last_change;
    for (int i = 0; i < 5000; ++i) {
      now += std::chrono::microseconds(random() % 20'000);
      pacer.changed();
      last_change = now;
      const auto due = pacer.due(now);
      REQUIRE(due);
      if (*due <= now || random() % 3 == 0) {  // now, or nothing else happens until then
        now = std::max(now, *due);
        pacer.pushed(now);
        pushes.push_back(now);
      }
    }
    if (const auto due = pacer.due(now)) pacer.pushed(*due), pushes.push_back(*due);
    CHECK(pushes.back() >= last_change);
    const std::size_t most = std::max(rate, 1u);
    for (std::size_t i = most; i < pushes.size(); ++i) {
      if (pushes[i] - pushes[i - most] < 1s) std::cerr << "rate " << rate << "\n";
      REQUIRE(pushes[i] - pushes[i - most] >= 1s);
    }
  }
}
