// The guard against a mass disappearance, as transcripts.
#include <doctest/doctest.h>

#include <chrono>
#include <string>

#include "registry/policy/disappearance_guard.hpp"

namespace {

using namespace std::chrono_literals;
using registry::DisappearanceGuard;

struct Transcript {
  explicit Transcript(double limit) : guard(limit, 60s) {}

  std::string live(std::size_t count, std::chrono::seconds at) {
    return text(guard.changed(count, DisappearanceGuard::TimePoint(at)));
  }
  std::string passed(std::chrono::seconds at) {
    return text(guard.passed(DisappearanceGuard::TimePoint(at)));
  }
  static std::string text(DisappearanceGuard::Action action) {
    return std::string(action.release ? "release" : "") + (action.release && action.hold ? ", " : "") +
           (action.hold ? "hold" : "");
  }

  DisappearanceGuard guard;
};

}  // namespace

TEST_CASE("disappearance guard: more than the limit at once is held, and believed after a while") {
  Transcript t(0.5);
  CHECK(t.live(10, 0s) == "");
  CHECK(t.live(4, 10s) == "hold");
  CHECK(t.guard.holding());
  CHECK(t.guard.due() == DisappearanceGuard::TimePoint(70s));
  CHECK(t.live(3, 20s) == "hold");  // what vanishes later is held as well, and not for longer
  CHECK(t.guard.due() == DisappearanceGuard::TimePoint(70s));
  CHECK(t.passed(69s) == "");
  CHECK(t.passed(70s) == "release");
  CHECK_FALSE(t.guard.holding());
  CHECK(t.guard.due() == DisappearanceGuard::TimePoint::max());
  CHECK(t.live(2, 71s) == "");  // of the three that are steady now
  CHECK(t.live(1, 72s) == "hold");
}

TEST_CASE("disappearance guard: exactly the limit is believed") {
  Transcript t(0.5);
  CHECK(t.live(10, 0s) == "");
  CHECK(t.live(5, 1s) == "");
  CHECK(t.live(4, 2s) == "hold");
}

TEST_CASE("disappearance guard: they come back") {
  Transcript t(0.5);
  CHECK(t.live(10, 0s) == "");
  CHECK(t.live(0, 1s) == "hold");
  CHECK(t.live(3, 2s) == "hold");  // nothing was removed by this one: nothing more is held
  CHECK(t.live(5, 3s) == "release");
  CHECK(t.live(10, 4s) == "");
  CHECK(t.live(0, 5s) == "hold");
  CHECK(t.live(12, 6s) == "release");
  CHECK(t.guard.due() == DisappearanceGuard::TimePoint::max());
}

TEST_CASE(
    "disappearance guard: going down step by step is no disappearance, if the steps take longer than the "
    "hold") {
  Transcript slow(0.5), fast(0.5);
  for (int i = 0; i <= 9; ++i) CHECK(slow.live(static_cast<std::size_t>(10 - i), i * 61s) == "");
  CHECK(fast.live(10, 0s) == "");
  for (int i = 1; i <= 5; ++i) CHECK(fast.live(static_cast<std::size_t>(10 - i), i * 1s) == "");
  CHECK(fast.live(4, 6s) == "hold");
}

TEST_CASE("disappearance guard: the hold is counted from when too many are missing, not from the first") {
  Transcript t(0.5);
  CHECK(t.live(10, 0s) == "");
  CHECK(t.live(9, 1s) == "");
  CHECK(t.live(0, 55s) == "hold");
  CHECK(t.passed(61s) == "");
  CHECK(t.passed(115s) == "release");
}

TEST_CASE("disappearance guard: a change behind the end of a hold is judged by what was steady then") {
  Transcript t(0.5);
  CHECK(t.live(10, 0s) == "");
  CHECK(t.live(4, 1s) == "hold");
  CHECK(t.live(1, 100s) == "release, hold");  // 4 were believed at 61 s
  CHECK(t.guard.due() == DisappearanceGuard::TimePoint(160s));
}

TEST_CASE("disappearance guard: off at a limit of 1, and nothing to compare with at the start") {
  Transcript off(1.0), on(0.0);
  CHECK(off.live(10, 0s) == "");
  CHECK(off.live(0, 1s) == "");
  CHECK(on.live(0, 0s) == "");
  CHECK(on.live(1, 1s) == "");
  CHECK(on.live(0, 2s) == "hold");
}
