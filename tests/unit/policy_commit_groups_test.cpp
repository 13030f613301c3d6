// Which writes share a commit, and who is guilty when one fails.
#include <doctest/doctest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "registry/policy/commit_groups.hpp"
#include "rig/seed.hpp"

using namespace registry;
using detail::CommitGroups;

namespace {

void add(CommitGroups& groups, CommitGroups::Ticket ticket, const std::string& key, std::int64_t lease = 1,
         std::size_t size = 1) {
  groups.add(CommitGroups::Item(ticket, Write(key, std::string(size, 'v'), lease, 0)));
}

std::string show(const CommitGroups::Group& group) {
  std::string text;
  for (const auto& item : group) text += (text.empty() ? "" : " ") + std::to_string(item.ticket);
  return text;
}

}  // namespace

TEST_CASE("commit groups: everything that queued goes together, up to the limit") {
  CommitGroups groups(Limits(3, 10000));
  CHECK(groups.next().empty());
  for (int i = 1; i <= 5; ++i) add(groups, static_cast<CommitGroups::Ticket>(i), "k" + std::to_string(i));
  CHECK(show(groups.next()) == "1 2 3");
  CHECK(show(groups.next()) == "4 5");
  CHECK(groups.next().empty());
}

TEST_CASE("commit groups: bytes are a limit too, but one write always goes") {
  CommitGroups groups(Limits(100, 1000));
  add(groups, 1, "a", 1, 600);
  add(groups, 2, "b", 1, 600);
  add(groups, 3, "c", 1, 5000);
  add(groups, 4, "d", 1, 10);
  CHECK(show(groups.next()) == "1");
  CHECK(show(groups.next()) == "2");
  CHECK(show(groups.next()) == "3");
  CHECK(show(groups.next()) == "4");
}

TEST_CASE("commit groups: full once a commit takes no more, by number or by bytes") {
  CommitGroups groups(Limits(2, 1000));
  CHECK_FALSE(groups.waiting());
  add(groups, 1, "a");
  CHECK(groups.waiting());
  CHECK_FALSE(groups.full());
  add(groups, 2, "b");
  CHECK(groups.full());
  CHECK(groups.remove(2));
  CHECK_FALSE(groups.full());
  add(groups, 3, "c", 1, 900);
  CHECK(groups.full());
  CHECK(show(groups.next()) == "1");
  CHECK(groups.remove(3));
  CHECK_FALSE(groups.waiting());
  add(groups, 4, "d", 1, 900);
  CHECK_FALSE(groups.full());
}

TEST_CASE("commit groups: a key waits for its earlier write, and is not overtaken") {
  CommitGroups groups(Limits(100, 100000));
  add(groups, 1, "a");
  add(groups, 2, "a");
  add(groups, 3, "b");
  add(groups, 4, "a");
  const auto first = groups.next();
  CHECK(show(first) == "1 3");
  CHECK(groups.next().empty());
  groups.done(first);
  const auto second = groups.next();
  CHECK(show(second) == "2");
  groups.done(second);
  CHECK(show(groups.next()) == "4");
}

TEST_CASE("commit groups: a queued write can be taken back, one under way cannot") {
  CommitGroups groups(Limits(100, 100000));
  add(groups, 1, "a");
  const auto first = groups.next();
  add(groups, 2, "b");
  CHECK_FALSE(groups.remove(1));
  CHECK(groups.remove(2));
  CHECK(groups.next().empty());
}

TEST_CASE("commit groups: halving leaves the guilty one alone") {
  CommitGroups groups(Limits(100, 100000));
  for (CommitGroups::Ticket i = 1; i <= 8; ++i) add(groups, i, "k" + std::to_string(i));
  add(groups, 9, "k5");  // must not overtake 5
  std::string failed, applied;
  int commits = 0;
  for (auto group = groups.next(); !group.empty(); group = groups.next()) {
    ++commits;
    const std::string text = show(group);
    if (text.find('5') == std::string::npos) {
      applied += text + ",";
      groups.done(group);
    } else {
      failed += show(groups.failed(std::move(group), errc::permission_denied).failed);
    }
  }
  CHECK(failed == "5");
  CHECK(applied == "1 2 3 4,7 8,6,9,");
  CHECK(commits == 8);
}

TEST_CASE("commit groups: a dead lease is found without halving") {
  CommitGroups groups(Limits(100, 100000));
  for (CommitGroups::Ticket i = 1; i <= 6; ++i) add(groups, i, "k" + std::to_string(i), i <= 3 ? 7 : 8);
  auto group = groups.next();
  CHECK(groups.failed(std::move(group), errc::lease_lost).failed.empty());
  group = groups.next();
  CHECK(show(group) == "1 2 3");
  CHECK(show(groups.failed(std::move(group), errc::lease_lost).failed) == "1 2 3");
  CHECK(show(groups.next()) == "4 5 6");
}

TEST_CASE("commit groups: what says nothing about one write fails all of them") {
  for (const errc code : {errc::unavailable, errc::outcome_unknown, errc::timed_out, errc::out_of_space}) {
    CommitGroups groups(Limits(100, 100000));
    add(groups, 1, "a");
    add(groups, 2, "b");
    auto group = groups.next();
    CHECK(show(groups.failed(std::move(group), code).failed) == "1 2");
    add(groups, 3, "a");
    CHECK(show(groups.next()) == "3");
  }
}

TEST_CASE("commit groups: random: in order for each key, nothing twice, nothing forgotten") {
  std::mt19937_64 random(rig::test_seed("commit groups"));
  CommitGroups groups(Limits(5, 2000));
  std::vector<CommitGroups::Group> under_way;
  std::map<std::string, CommitGroups::Ticket> newest;
  CommitGroups::Ticket added = 0, ended = 0;
  while (added < 5000 || ended < added) {
    const unsigned what = random() % 3;
    if (what == 0 && added < 5000) {
      ++added;
      add(groups, added, "k" + std::to_string(random() % 20), static_cast<std::int64_t>(random() % 3),
          random() % 900);
    } else if (what == 1 && under_way.size() < 2) {
      auto group = groups.next();
      for (const auto& item : group) {
        CHECK(newest[item.key] < item.ticket + 1);
        for (const auto& other : under_way) {
          for (const auto& each : other) CHECK(each.key != item.key);
        }
      }
      if (!group.empty()) under_way.push_back(std::move(group));
    } else if (!under_way.empty()) {
      auto group = std::move(under_way.back());
      under_way.pop_back();
      if (random() % 4 == 0) {
        for (const auto& item :
             groups.failed(std::move(group), random() % 2 == 0 ? errc::lease_lost : errc::too_large).failed) {
          CHECK(newest[item.key] < item.ticket);
          newest[item.key] = item.ticket;
          ++ended;
        }
      } else {
        for (const auto& item : group) {
          CHECK(newest[item.key] < item.ticket);
          newest[item.key] = item.ticket;
          ++ended;
        }
        groups.done(group);
      }
    }
  }
  CHECK(ended == 5000);
}
