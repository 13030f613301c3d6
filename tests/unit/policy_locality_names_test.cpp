// Which names localities get from one assignment to the next.
#include <doctest/doctest.h>

#include <chrono>
#include <string>
#include <vector>

#include "registry/policy/locality_names.hpp"

using namespace registry;
using namespace registry::detail;
using namespace std::chrono_literals;

namespace {

/// "weight-1:a,b weight-3:c | rest:d" is two priorities; endpoints are ports of 10.0.0.1 by their letter.
struct Cluster {
  std::string next(const std::vector<std::vector<std::pair<std::string, std::string>>>& priorities,
                   std::chrono::minutes later = 0min) {
    EndpointAssignment assignment;
    for (const auto& priority : priorities) {
      auto& made = assignment.priorities.emplace_back();
      for (const auto& [name, letters] : priority) {
        PublishedLocality& locality = made.emplace_back();
        locality.sub_zone = name;
        for (const char letter : letters) {
          PublishedEndpoint& endpoint = locality.endpoints.emplace_back();
          endpoint.ip = "10.0.0.1";
          endpoint.port = static_cast<std::uint16_t>(letter);
        }
      }
    }
    names.settle(assignment, now += later);
    std::string text;
    for (const auto& priority : assignment.priorities) {
      text += text.empty() ? "" : "| ";
      for (const auto& locality : priority) text += locality.sub_zone + " ";
    }
    return text;
  }

  LocalityNames names;
  LocalityNames::TimePoint now;
};

}  // namespace

TEST_CASE("locality names: they stay while an endpoint stays") {
  Cluster cluster;
  CHECK(cluster.next({{{"w1", "ab"}, {"w3", "c"}}}) == "w1 w3 ");
  CHECK(cluster.next({{{"w1", "ab"}, {"w3", "c"}}}) == "w1 w3 ");
  CHECK(cluster.next({{{"w1", "bd"}, {"w3", "c"}}}) == "w1 w3 ");
  CHECK(cluster.next({{{"w1", "b"}, {"w3", "ca"}}}) == "w1 w3 ");
  CHECK(cluster.next({{{"w1", "b"}}, {{"w3", "ca"}}}) == "w1 | w3 ");
}

TEST_CASE(
    "locality names: none of its endpoints stays: another name, or the old ones take calls until the new "
    "answer") {
  Cluster cluster;
  CHECK(cluster.next({{{"user-1", "a"}, {"user-2", "b"}}}) == "user-1 user-2 ");
  CHECK(cluster.next({{{"user-1", "c"}, {"user-2", "b"}}}) == "user-1#1 user-2 ");
  CHECK(cluster.next({{{"user-1", "c"}, {"user-2", "b"}}}) == "user-1#1 user-2 ");
  CHECK(cluster.next({{{"user-1", "a"}, {"user-2", "b"}}}) == "user-1#2 user-2 ");
}

TEST_CASE("locality names: one that was gone comes back with all it had, or with another name") {
  Cluster cluster;
  CHECK(cluster.next({{{"w1", "a"}, {"w3", "b"}}}) == "w1 w3 ");
  CHECK(cluster.next({{{"w1", "a"}}}) == "w1 ");
  CHECK(cluster.next({{{"w1", "a"}, {"w3", "b"}}}) == "w1 w3 ");  // it only flapped
  CHECK(cluster.next({{{"w1", "a"}}}) == "w1 ");
  CHECK(cluster.next({{{"w1", "a"}, {"w3", "bc"}}}) == "w1 w3 ");  // and brought another one
  CHECK(cluster.next({{{"w1", "a"}}}) == "w1 ");
  CHECK(cluster.next({{{"w1", "a"}, {"w3", "c"}}}) == "w1 w3#1 ");  // b was taken out meanwhile
  CHECK(cluster.next({}) == "");
  CHECK(cluster.next({{{"w1", "a"}, {"w3", "b"}}}) == "w1 w3#2 ");
}

TEST_CASE("locality names: forgotten when gRPC has forgotten them, too, but never while they are there") {
  Cluster cluster;
  CHECK(cluster.next({{{"w1", "a"}, {"w3", "b"}}}) == "w1 w3 ");
  CHECK(cluster.next({{{"w1", "c"}}}) == "w1#1 ");
  CHECK(cluster.next({{{"w1", "c"}}}, 15min) == "w1#1 ");
  CHECK(cluster.next({{{"w1", "c"}, {"w3", "d"}}}) == "w1#1 w3#1 ");
  CHECK(cluster.next({{{"w1", "c"}}}) == "w1#1 ");
  CHECK(cluster.next({{{"w1", "c"}}}, 21min) == "w1#1 ");
  CHECK(cluster.next({{{"w1", "c"}, {"w3", "e"}}}) == "w1#1 w3 ");
}
