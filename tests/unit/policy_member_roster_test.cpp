// Auto-sync: answers to MemberList, and whom they make us ask, use and give up.
#include <doctest/doctest.h>

#include <ostream>
#include <string>
#include <vector>

#include "registry/policy/member_roster.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {

using Words = std::vector<std::string>;

ListedMember member(std::uint64_t id, std::vector<std::string> urls) {
  ListedMember listed;
  listed.id = id;
  listed.client_urls = std::move(urls);
  return listed;
}

/// Member 1 is configured as a:1. A transcript: answers in, actions out.
struct Transcript {
  MemberRoster roster;

  explicit Transcript(bool tls = false) : roster({"a:1"}, tls) {}

  Words lists(std::vector<ListedMember> members, const std::string& from = "a:1", std::uint64_t by = 1,
              std::uint64_t cluster = 7) {
    MemberAnswer answer;
    answer.from = from;
    answer.cluster = cluster;
    answer.member = by;
    answer.members = std::move(members);
    const auto step = roster.listed(answer);
    notes = step.notes;
    settled = step.settled;
    Words all;
    for (const auto& address : step.ask) all.push_back("ask " + address);
    for (const auto& address : step.drop) all.push_back("drop " + address);
    return all;
  }
  bool answers(const std::string& address, std::uint64_t cluster = 7) {
    const auto admission = roster.answered(address, cluster);
    notes = {admission.note};
    return admission.use;
  }
  bool says(const std::string& part) const {
    for (const auto& note : notes) {
      if (note.find(part) != std::string::npos) return true;
    }
    return false;
  }

  Words notes;
  bool settled = false;
};

const auto m1 = member(1, {"http://a:1"});
const auto m2 = member(2, {"http://b:1"});
const auto m3 = member(3, {"http://c:1"});
const Words nothing;

}  // namespace

TEST_CASE("member roster: new addresses are asked themselves, and used when they have answered") {
  Transcript t;
  CHECK(t.lists({m1, m2, m3}) == Words{"ask b:1", "ask c:1"});
  CHECK_FALSE(t.settled);
  CHECK(t.answers("b:1"));
  CHECK(t.says("b:1 is used"));
  // One that is being asked is not asked again, nor is one in use.
  CHECK(t.lists({m1, m2, m3}) == nothing);
  CHECK_FALSE(t.settled);
  CHECK(t.answers("c:1"));
  CHECK(t.lists({m1, m2, m3}) == nothing);
  CHECK(t.settled);
  CHECK_FALSE(t.answers("c:1"));  // not twice
}

TEST_CASE("member roster: one that does not answer is asked with every list, and that is said once") {
  Transcript t;
  CHECK(t.lists({m1, m2}) == Words{"ask b:1"});
  CHECK(t.roster.silent("b:1", "refused").note.find("does not answer: refused") != std::string::npos);
  CHECK(t.lists({m1, m2}) == Words{"ask b:1"});
  CHECK_FALSE(t.settled);
  CHECK(t.roster.silent("b:1", "refused").note == "");
  CHECK(t.lists({m1, m2}) == Words{"ask b:1"});
  CHECK(t.answers("b:1"));
}

TEST_CASE("member roster: who is no member any more is given up, and asked anew when it comes back") {
  Transcript t;
  t.lists({m1, m2, m3});
  t.answers("b:1");
  CHECK(t.lists({m1, m3}) == Words{"drop b:1"});
  CHECK(t.says("b:1 is no longer of a member"));
  CHECK(t.lists({m1, m2, m3}) == Words{"ask b:1"});
  // Its answer comes when it is no longer listed.
  t.lists({m1, m3});
  CHECK_FALSE(t.answers("b:1"));
  // A member that moved.
  t.answers("c:1");
  CHECK(t.lists({m1, member(3, {"http://d:1"})}) == Words{"ask d:1", "drop c:1"});
}

TEST_CASE("member roster: what is configured is never asked, nor given up") {
  Transcript t;
  CHECK(t.lists({m1}) == nothing);
  CHECK(t.settled);
  // Reached by another address than it advertises, as by a load balancer.
  CHECK(t.lists({member(1, {"http://inner:1"}), m2}) == Words{"ask b:1", "ask inner:1"});
  t.answers("b:1");
  CHECK(t.lists({m2}, "b:1", 2) == nothing);
}

TEST_CASE("member roster: a list that is empty, or not of a member of it, changes nothing") {
  Transcript t;
  t.lists({m1, m2, m3});
  t.answers("b:1");
  t.answers("c:1");
  CHECK(t.lists({}) == nothing);
  CHECK_FALSE(t.settled);
  CHECK(t.lists({m1, m2}, "c:1", 3) == nothing);  // removed, and answers still
  CHECK(t.lists({m1, m2, m3}, "a:1", 1, 0) == nothing);
  // It has joined and not started: its list may lack others.
  CHECK(t.lists({member(1, {}), m2}) == nothing);
  CHECK(t.lists({m1, m2}, "a:1", 1) == Words{"drop c:1"});
}

TEST_CASE("member roster: members that have not started, and learners, are not used yet") {
  Transcript t;
  auto learner = m3;
  learner.learner = true;
  CHECK(t.lists({m1, member(2, {}), learner}) == nothing);
  CHECK(t.lists({m1, m2, m3}) == Words{"ask b:1", "ask c:1"});
}

TEST_CASE("member roster: an address where another cluster answers is not used") {
  Transcript t;
  t.lists({m1, member(2, {"http://localhost:1"})});
  CHECK_FALSE(t.answers("localhost:1", 8));
  CHECK(t.says("another cluster"));
  CHECK(t.lists({m1, member(2, {"http://localhost:1"})}) == Words{"ask localhost:1"});
  CHECK_FALSE(t.answers("localhost:1", 8));
  CHECK(t.notes == Words{""});
}

TEST_CASE("member roster: which cluster is ours, the configured endpoints say") {
  Transcript t;
  t.lists({m1, m2, m3});
  t.answers("b:1");
  t.answers("c:1");
  // The address of b now is another cluster's.
  CHECK(t.lists({m2, member(9, {"http://x:1"})}, "b:1", 2, 8) == Words{"drop b:1"});
  CHECK_FALSE(t.settled);
  // The whole cluster was replaced.
  CHECK(t.lists({m1, m2}, "a:1", 1, 8) == Words{"ask b:1", "drop c:1"});
  CHECK_FALSE(t.answers("b:1", 7));
  CHECK(t.lists({m1, m2}, "a:1", 1, 8) == Words{"ask b:1"});
  CHECK(t.answers("b:1", 8));
}

TEST_CASE("member roster: what we cannot use is left out, and that is said once") {
  const Words urls{"https://b:1", "http://b:2", "unix://localhost:3", "ftp://b:4",
                   "b",           "http://b:0", "http://b:5?q",       ""};
  const std::vector<ListedMember> members{m1, member(2, urls)};
  Transcript plain;
  CHECK(plain.lists(members) == Words{"ask b:2"});
  CHECK(plain.notes.size() == 7);
  CHECK(plain.says("\"https://b:1\", which wants TLS, and tls is not set"));
  CHECK(plain.says("\"unix://localhost:3\", which is neither"));
  plain.lists(members);
  CHECK(plain.notes == nothing);
  CHECK_FALSE(plain.settled);  // b:2 was not heard of yet
  plain.answers("b:2");
  plain.lists(members);
  CHECK(plain.settled);

  Transcript tls(true);
  CHECK(tls.lists({member(1, {"https://a:1"}), member(2, urls)}) == Words{"ask b:1"});
  CHECK(tls.says("\"http://b:2\", which is plain text, and tls is set"));
}

TEST_CASE("member roster: of a list without end a bounded part is looked at") {
  Transcript t;
  std::vector<ListedMember> members{m1};
  for (int i = 0; i < 1000; ++i)
    members.push_back(member(static_cast<std::uint64_t>(i + 2),
                             {"http://h" + std::to_string(i) + ":1", "ftp://h" + std::to_string(i)}));
  const auto asked = t.lists(members);
  CHECK(asked.size() + t.notes.size() == MemberRoster::most);
  for (const auto& note : t.notes) CHECK(note.size() < 300);
}

TEST_CASE("sync pace: every interval less up to a tenth; sooner while something is new or nobody answers") {
  SyncPace pace(60s);
  CHECK(pace.pause(true, 0.0) == 60s);
  CHECK(pace.pause(true, 0.5) == 57s);
  CHECK(pace.pause(false, 0.999) >= 900ms);
  CHECK(pace.pause(false, 0.999) <= 2s);
  for (int i = 0; i < 20; ++i) CHECK(pace.pause(false, 0.999) <= 60s);
  CHECK(pace.pause(false, 0.999) >= 59s);
  CHECK(pace.pause(true, 0.0) == 60s);
  CHECK(pace.pause(false, 0.999) <= 1s);
  SyncPace quick(1s);
  CHECK(quick.pause(false, 0.999) <= 1s);
}
