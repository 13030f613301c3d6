// Backoff: the ceiling grows and stops, a pause is never zero, the jitter uses the whole range.
#include <doctest/doctest.h>

#include <chrono>
#include <cmath>
#include <limits>

#include "registry/policy/backoff.hpp"

using registry::Backoff;
using namespace std::chrono_literals;

namespace {
constexpr double low = 0.0;
const double high = std::nextafter(1.0, 0.0);
}  // namespace

TEST_CASE(
    "backoff: the longest pauses double up to the maximum, the shortest stay at half of the first step") {
  Backoff longest(1000ms, 30000ms), shortest(1000ms, 30000ms);
  for (const auto expected : {1000ms, 2000ms, 4000ms, 8000ms, 16000ms, 30000ms, 30000ms, 30000ms}) {
    const auto pause = longest.next(high);
    CHECK(pause <= expected);
    CHECK(pause >= expected - 1ms);
    CHECK(shortest.next(low) == 500ms);
  }
  CHECK(longest.failures() == 8);
  longest.reset();
  CHECK(longest.failures() == 0);
  CHECK(longest.next(high) <= 1000ms);
}

TEST_CASE("backoff: a draw in the middle lands in the middle") {
  Backoff backoff(1000ms, 8000ms);
  for (int i = 0; i < 5; ++i) backoff.next(low);
  CHECK(backoff.next(0.5) == 4250ms);  // between 500 and 8000
}

TEST_CASE("backoff: no overflow, however many failures and however long the maximum") {
  const auto ever = std::chrono::milliseconds::max();
  for (const auto max : {30000ms, std::chrono::milliseconds(ever)}) {
    Backoff backoff(1000ms, max);
    auto last = 0ms;
    for (int i = 0; i < 10'000; ++i) {
      const auto pause = backoff.next(0.5);
      REQUIRE(pause >= 500ms);
      REQUIRE(pause <= max);
      REQUIRE(pause >= last);
      last = pause;
    }
    CHECK(backoff.next(high) <= max);
    CHECK(backoff.next(1.0) <= max);
  }
}

TEST_CASE("backoff: odd settings and odd draws still give a pause") {
  Backoff zero(0ms, 0ms);
  CHECK(zero.next(low) == 1ms);
  CHECK(zero.next(high) == 1ms);
  Backoff negative(-5ms, -7ms);
  CHECK(negative.next(high) == 1ms);
  Backoff inverted(1000ms, 10ms);  // the first step wins
  CHECK(inverted.next(high) >= 999ms);
  CHECK(inverted.next(high) <= 1000ms);
  Backoff usual(1000ms, 30000ms);
  CHECK(usual.next(-1.0) == 500ms);
  CHECK(usual.next(std::numeric_limits<double>::quiet_NaN()) == 500ms);
  CHECK(usual.next(17.0) <= 4000ms);
}
