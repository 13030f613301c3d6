// Which endpoint is used: transcripts of picks and failures.
#include <doctest/doctest.h>

#include "registry/policy/endpoint_choice.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {
const EndpointChoice::TimePoint start{1h};
}

TEST_CASE("endpoint choice: clients spread by their draw and stay with a healthy member") {
  for (const auto& [draw, expected] :
       {std::pair(0.0, 0u), std::pair(0.4, 1u), std::pair(0.99, 2u), std::pair(1.0, 2u)}) {
    EndpointChoice choice(3, draw);
    CHECK(choice.pick(start) == expected);
    choice.succeeded(expected);
    CHECK(choice.pick(start + 1h) == expected);
  }
}

TEST_CASE("endpoint choice: a failing member is left at once, and the others are tried in turn") {
  EndpointChoice choice(3, 0.0);
  choice.failed(0, start, 1.0);
  CHECK(choice.pick(start) == 1);
  choice.failed(1, start, 1.0);
  CHECK(choice.pick(start) == 2);
  // One that works is kept although the first would be allowed again.
  CHECK(choice.pick(start + 1h) == 2);
}

TEST_CASE("endpoint choice: with all failing the one that is avoided for the shortest time is used") {
  EndpointChoice choice(2, 0.0);
  choice.failed(0, start, 1.0);         // until +100 ms
  choice.failed(1, start + 10ms, 1.0);  // until +110 ms
  CHECK(choice.pick(start + 20ms) == 0);
  choice.failed(0, start + 100ms, 1.0);  // the second in a row: until +300 ms
  CHECK(choice.pick(start + 105ms) == 1);
  CHECK(choice.pick(start + 110ms) == 1);
}

TEST_CASE(
    "endpoint choice: the time doubles with failures in a row, is bounded, and starts over with a success") {
  EndpointChoice choice(2, 0.0);
  auto now = start;
  std::chrono::milliseconds previous{0};
  for (int i = 0; i < 12; ++i) {
    choice.failed(0, now, 1.0);
    choice.failed(1, now, 1.0);
    std::chrono::milliseconds avoided{0};
    // How long until 0 is acceptable while 1 works: 1 succeeds now, then fails only after 0 is free.
    EndpointChoice probe = choice;
    probe.succeeded(1);
    while (probe.pick(now + avoided) != 0 && avoided < 20s) {
      avoided += 50ms;
      EndpointChoice again = choice;
      probe = again;
      probe.succeeded(1);
      probe.failed(1, now + avoided, 1.0);
    }
    CHECK(avoided >= previous);
    CHECK(avoided <= 6500ms);
    previous = avoided;
    now += 10s;
  }
  CHECK(previous >= 6s);
  choice.succeeded(0);
  choice.failed(0, now, 1.0);
  choice.failed(1, now - 9s, 1.0);
  CHECK(choice.pick(now + 100ms) == 0);
}

TEST_CASE("endpoint choice: failures of calls that were sent before count once") {
  EndpointChoice choice(2, 0.0);
  for (int i = 0; i < 100; ++i) choice.failed(0, start + std::chrono::milliseconds(i / 2), 1.0);
  choice.failed(1, start, 1.0);
  CHECK(choice.pick(start + 100ms) == 0);
}

TEST_CASE("endpoint choice: who asks again only after the time is over asks elsewhere all the same") {
  EndpointChoice choice(3, 0.0);
  auto now = start;
  for (std::size_t turn = 0; turn < 7; ++turn) {
    CHECK(choice.pick(now) == turn % 3);
    choice.failed(turn % 3, now, 1.0);
    now += 1min;
  }
  // A failure of one that was left before says nothing about the one in use.
  choice.succeeded(1);
  choice.failed(0, now, 1.0);
  CHECK(choice.pick(now) == 1);
}

TEST_CASE("endpoint choice: one that is added waits for its turn, with the others as they were") {
  EndpointChoice choice(2, 0.6);
  choice.add();
  CHECK(choice.size() == 3);
  CHECK(choice.pick(start) == 1);
  choice.failed(1, start, 1.0);
  CHECK(choice.pick(start) == 2);
  choice.failed(2, start, 1.0);
  CHECK(choice.pick(start) == 0);
}

TEST_CASE(
    "endpoint choice: one that is removed is not used again, and the one in use stays if it is another") {
  EndpointChoice choice(4, 0.6);
  CHECK(choice.pick(start) == 2);
  choice.remove(3);
  CHECK(choice.pick(start) == 2);
  choice.remove(0);  // those behind it move up
  CHECK(choice.pick(start) == 1);
  // The one in use, at the end of the row.
  choice.remove(1);
  CHECK(choice.pick(start) == 0);
  choice.failed(0, start, 1.0);
  CHECK(choice.pick(start) == 0);
  choice.remove(0);  // there is none but it
  CHECK(choice.size() == 1);
  CHECK(choice.pick(start) == 0);
}

TEST_CASE("endpoint choice: what is known of the others stays theirs when one before them is removed") {
  EndpointChoice choice(3, 0.5);
  choice.failed(2, start, 1.0);
  choice.remove(0);
  CHECK(choice.pick(start) == 0);
  choice.failed(0, start + 1ms, 1.0);
  CHECK(choice.pick(start + 2ms) == 1);  // avoided for the shortest time
  CHECK(choice.pick(start + 1h) == 1);
}

TEST_CASE("endpoint choice: the one in use, at the end of the row, is removed while all fail") {
  EndpointChoice choice(2, 0.0);
  choice.failed(1, start, 0.0);
  choice.failed(0, start, 1.0);
  CHECK(choice.pick(start) == 1);
  choice.remove(1);
  CHECK(choice.pick(start) == 0);
}
