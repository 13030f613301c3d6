// StreamPlan as transcripts: lists of instances and the fate of streams go in, actions come out. Times are
// milliseconds after an arbitrary start.
#include <doctest/doctest.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry/policy/stream_plan.hpp"

using namespace registry;
using namespace std::chrono_literals;
using std::chrono::milliseconds;

namespace {

constexpr double early = 0.0, late = 1.0;

StreamPlan::TimePoint at(milliseconds after_start) { return StreamPlan::TimePoint(1000h) + after_start; }

StreamPeer peer(const std::string& id, std::vector<std::string> targets, const std::string& status = "") {
  auto instance = std::make_shared<ServiceInstance>("chat", id);
  if (!status.empty()) instance->metadata["status"] = status;
  return StreamPeer(std::move(instance), std::move(targets));
}

// "open 1 to a:1, close 2", or "nothing".
std::string shown(const StreamPlan::Actions& actions) {
  std::string text;
  for (const StreamAction& action : actions) {
    if (!text.empty()) text += ", ";
    const bool opens = action.kind == StreamAction::Open;
    text += (opens ? "open " : "close ") + std::to_string(action.stream);
    if (opens) text += " to " + action.target;
  }
  return text.empty() ? "nothing" : text;
}

std::string wake(const StreamPlan& plan) {
  const auto when = plan.wake_at();
  return when ? std::to_string(std::chrono::round<milliseconds>(*when - at(0ms)).count()) : "never";
}

StreamPlan plan_of() { return StreamPlan(1000ms, 8000ms, 5000ms); }

}  // namespace

TEST_CASE("stream plan: a stream for each instance, opened when it comes, closed when it goes") {
  StreamPlan plan = plan_of();
  const auto a = peer("a", {"a:1"}), b = peer("b", {"b:1"}), c = peer("c", {"c:1"});
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({a, c}, at(0ms))) == "open 1 to a:1, open 2 to c:1");
  CHECK(wake(plan) == "5000");  // opening has its time
  CHECK(plan.opened(1, at(10ms)));
  CHECK(plan.opened(2, at(10ms)));
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({a, c}, at(20ms))) == "nothing");
  CHECK(shown(plan.listed({a, b}, at(30ms))) == "open 3 to b:1, close 2");
  CHECK(shown(plan.listed({}, at(40ms))) == "close 1, close 3");
  CHECK_FALSE(plan.opened(3, at(50ms)));  // it was on its way
  plan.ended(1, at(50ms), early);
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({a}, at(60ms))) == "open 4 to a:1");
}

TEST_CASE("stream plan: what fails is opened again after growing pauses; one that lasted starts over") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(0ms))) == "open 1 to a:1");
  plan.ended(1, at(0ms), late);
  CHECK(wake(plan) == "1000");
  CHECK(shown(plan.due(at(999ms))) == "nothing");
  CHECK(shown(plan.due(at(1000ms))) == "open 2 to a:1");
  plan.ended(2, at(1000ms), late);
  CHECK(wake(plan) == "3000");
  CHECK(shown(plan.due(at(3000ms))) == "open 3 to a:1");
  CHECK(plan.opened(3, at(3000ms)));
  plan.ended(3, at(3010ms), late);  // open, but not for long: still failing
  CHECK(wake(plan) == "7010");
  CHECK(shown(plan.due(at(7010ms))) == "open 4 to a:1");
  CHECK(plan.opened(4, at(7010ms)));
  plan.ended(4, at(11009ms), late);  // less than the last pause
  CHECK(wake(plan) == "19009");
  CHECK(shown(plan.due(at(19009ms))) == "open 5 to a:1");
  CHECK(plan.opened(5, at(19009ms)));
  plan.ended(5, at(27009ms), late);  // as long as the last pause
  CHECK(wake(plan) == "28009");
  CHECK(shown(plan.due(at(28009ms))) == "open 6 to a:1");
  plan.ended(6, at(28009ms), early);  // the draw spreads
  CHECK(wake(plan) == "28509");
}

TEST_CASE("stream plan: a stream that is too long in opening is closed and counts as failed") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(0ms))) == "open 1 to a:1");
  CHECK(shown(plan.due(at(4999ms))) == "nothing");
  CHECK(shown(plan.due(at(5000ms))) == "close 1");
  CHECK(shown(plan.due(at(5001ms))) == "nothing");
  CHECK(wake(plan) == "never");
  CHECK_FALSE(plan.opened(1, at(5002ms)));  // too late: it is being closed
  plan.ended(1, at(5003ms), late);
  CHECK(wake(plan) == "6003");
  CHECK(shown(plan.due(at(6003ms))) == "open 2 to a:1");
}

TEST_CASE("stream plan: an instance that goes while its late stream lets go is not closed twice") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(0ms))) == "open 1 to a:1");
  CHECK(shown(plan.due(at(5000ms))) == "close 1");
  CHECK(shown(plan.listed({}, at(5001ms))) == "nothing");
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(5002ms))) == "open 2 to a:1");
  plan.ended(1, at(5003ms), late);  // the old one
  CHECK(plan.opened(2, at(5004ms)));
}

TEST_CASE("stream plan: re-addressed: closed, and opened there at once, whatever the pause was") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(0ms))) == "open 1 to a:1");
  CHECK(plan.opened(1, at(0ms)));
  CHECK(shown(plan.listed({peer("a", {"a:2"})}, at(10ms))) == "close 1, open 2 to a:2");
  plan.ended(2, at(20ms), late);
  plan.ended(1, at(20ms), late);
  CHECK(wake(plan) == "1020");
  CHECK(shown(plan.listed({peer("a", {"a:3"})}, at(30ms))) == "open 3 to a:3");
  plan.ended(3, at(40ms), late);
  CHECK(wake(plan) == "1040");  // a new address is a new chance
}

TEST_CASE("stream plan: another address beside the one in use changes nothing") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(0ms))) == "open 1 to a:1");
  CHECK(plan.opened(1, at(0ms)));
  CHECK(shown(plan.listed({peer("a", {"a:2", "a:1"})}, at(10ms))) == "nothing");
  CHECK(shown(plan.listed({peer("a", {"a:2"})}, at(20ms))) == "close 1, open 2 to a:2");
}

TEST_CASE("stream plan: an instance with several addresses is tried at one after the other") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1", "a:2"})}, at(0ms))) == "open 1 to a:1");
  plan.ended(1, at(0ms), early);
  CHECK(shown(plan.due(at(500ms))) == "open 2 to a:2");
  CHECK(plan.opened(2, at(500ms)));
  plan.ended(2, at(10'000ms), early);  // it works: the same again
  CHECK(shown(plan.due(at(10'500ms))) == "open 3 to a:2");
  plan.ended(3, at(10'500ms), early);
  CHECK(shown(plan.due(at(20'000ms))) == "open 4 to a:1");
}

TEST_CASE("stream plan: written anew during a pause: probably back") {
  StreamPlan plan = plan_of();
  const auto a = peer("a", {"a:1"});
  CHECK(shown(plan.listed({a}, at(0ms))) == "open 1 to a:1");
  plan.ended(1, at(0ms), late);
  CHECK(shown(plan.due(at(1000ms))) == "open 2 to a:1");
  plan.ended(2, at(1000ms), late);
  CHECK(shown(plan.due(at(3000ms))) == "open 3 to a:1");
  plan.ended(3, at(3000ms), late);
  CHECK(wake(plan) == "7000");
  CHECK(shown(plan.listed({a}, at(3100ms))) == "nothing");
  CHECK(wake(plan) == "7000");  // some other instance was written
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(3200ms))) == "nothing");
  CHECK(wake(plan) == "4000");
  CHECK(shown(plan.due(at(4000ms))) == "open 4 to a:1");
}

TEST_CASE("stream plan: disabled is closed, draining stays until it ends, up again is opened at once") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"}, "disabled"), peer("b", {"b:1"}, "draining")}, at(0ms))) ==
        "nothing");
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({peer("a", {"a:1"}), peer("b", {"b:1"})}, at(10ms))) ==
        "open 1 to a:1, open 2 to b:1");
  CHECK(plan.opened(1, at(20ms)));
  CHECK(shown(plan.listed({peer("a", {"a:1"}, "draining"), peer("b", {"b:1"}, "draining")}, at(30ms))) ==
        "close 2");  // it was not open yet
  CHECK(shown(plan.listed({peer("a", {"a:1"}, "draining")}, at(40ms))) == "nothing");
  plan.ended(1, at(50ms), early);
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(60ms))) == "open 3 to a:1");
  CHECK(plan.opened(3, at(70ms)));
  CHECK(shown(plan.listed({peer("a", {"a:1"}, "disabled")}, at(80ms))) == "close 3");
  plan.ended(3, at(90ms), early);
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(100ms))) == "open 4 to a:1");
  plan.ended(4, at(110ms), early);
  CHECK(shown(plan.listed({peer("a", {"a:1"}, "draining")}, at(120ms))) == "nothing");
  CHECK(wake(plan) == "never");  // a pause ends with it
}

TEST_CASE("stream plan: an instance without a usable address waits for one") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {})}, at(0ms))) == "nothing");
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(10ms))) == "open 1 to a:1");
  CHECK(shown(plan.listed({peer("a", {})}, at(20ms))) == "close 1");
}

TEST_CASE("stream plan: closed for good") {
  StreamPlan plan = plan_of();
  CHECK(shown(plan.listed({peer("a", {"a:1"}), peer("b", {"b:1"}), peer("c", {"c:1"})}, at(0ms))) ==
        "open 1 to a:1, open 2 to b:1, open 3 to c:1");
  CHECK(plan.opened(1, at(0ms)));
  plan.ended(2, at(0ms), early);
  CHECK(shown(plan.close()) == "close 1, close 3");
  CHECK(wake(plan) == "never");
  CHECK(shown(plan.close()) == "nothing");
  CHECK(shown(plan.listed({peer("a", {"a:1"})}, at(10ms))) == "nothing");
  CHECK_FALSE(plan.opened(3, at(20ms)));
  plan.ended(3, at(20ms), early);
  CHECK(shown(plan.due(at(30s))) == "nothing");
}
