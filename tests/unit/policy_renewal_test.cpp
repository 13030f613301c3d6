// LeaseRenewal as transcripts: what was sent and answered goes in, the next action comes out. Times are
// seconds after an arbitrary start.
#include <doctest/doctest.h>

#include <chrono>
#include <random>
#include <string>

#include "registry/policy/renewal.hpp"
#include "rig/seed.hpp"

using registry::LeaseRenewal;
using registry::RenewalAction;
using namespace std::chrono_literals;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr double early = 0.0, middle = 0.5, late = 0.999999;

LeaseRenewal::TimePoint at(milliseconds after_start) { return LeaseRenewal::TimePoint(1000h) + after_start; }

// "wait until 9000", "renew within 2000", "lost": in milliseconds after the start.
std::string step(LeaseRenewal& lease, milliseconds now, double draw) {
  const RenewalAction action = lease.next(at(now), draw);
  const auto moment = std::chrono::round<milliseconds>(action.at - at(0ms)).count();
  switch (action.kind) {
    case RenewalAction::Wait: return "wait until " + std::to_string(moment);
    case RenewalAction::Renew: return "renew within " + std::to_string(action.timeout.count());
    case RenewalAction::Lost: CHECK(action.reason == registry::errc::lease_lost); return "lost";
  }
  return "?";
}

}  // namespace

TEST_CASE("renewal: a third of the TTL after the send time, 10 % around it") {
  for (const auto& [draw, due] : {std::pair{early, 9000ms}, {middle, 10000ms}, {late, 11000ms}}) {
    LeaseRenewal lease(at(0ms), 30s);
    CHECK(step(lease, 0ms, draw) == "wait until " + std::to_string(due.count()));
    CHECK(step(lease, due - 1ms, draw) == "wait until " + std::to_string(due.count()));
    CHECK(step(lease, due, draw) == "renew within 2000");
  }
}

TEST_CASE("renewal: asking early, with other draws, does not move the moment") {
  LeaseRenewal lease(at(0ms), 30s);
  CHECK(step(lease, 100ms, middle) == "wait until 10000");
  CHECK(step(lease, 200ms, early) == "wait until 10000");
  CHECK(step(lease, 9500ms, early) == "wait until 10000");
  CHECK(step(lease, 10000ms, late) == "renew within 2000");
}

TEST_CASE("renewal: the next period counts from the send time of the answer, not from its arrival") {
  LeaseRenewal lease(at(0ms), 30s);
  CHECK(step(lease, 0ms, middle) == "wait until 10000");
  lease.renewed(at(10s), 30s);  // arrived at 11.5 s
  CHECK(step(lease, 11500ms, middle) == "wait until 20000");
  CHECK(lease.expires_at() == at(39s));
}

TEST_CASE(
    "renewal: failures are tried again soon, until the local deadline, then the lease is lost unanswered") {
  LeaseRenewal lease(at(0ms), 30s);
  CHECK(lease.expires_at() == at(29s));
  CHECK(step(lease, 0ms, middle) == "wait until 10000");
  CHECK(step(lease, 10s, middle) == "renew within 2000");
  lease.failed(at(12s));
  CHECK(step(lease, 12s, early) == "wait until 12500");
  CHECK(step(lease, 12500ms, early) == "renew within 2000");
  lease.failed(at(14500ms));
  CHECK(step(lease, 14500ms, late) == "wait until 16000");
  CHECK(step(lease, 27700ms, middle) == "renew within 1300");  // never beyond the deadline
  lease.failed(at(28900ms));
  CHECK(step(lease, 28900ms, middle) == "wait until 29000");
  CHECK_FALSE(lease.lost());
  CHECK(step(lease, 29s, middle) == "lost");
  CHECK(lease.lost());
}

TEST_CASE("renewal: a success after failures goes back to the usual rhythm") {
  LeaseRenewal lease(at(0ms), 30s);
  lease.failed(at(12s));
  lease.renewed(at(13s), 30s);
  CHECK(step(lease, 13s, middle) == "wait until 23000");
}

TEST_CASE("renewal: a short lease has short timeouts and short pauses") {
  LeaseRenewal lease(at(0ms), 2s);
  CHECK(lease.expires_at() == at(1800ms));
  CHECK(step(lease, 0ms, middle) == "wait until 667");
  CHECK(step(lease, 667ms, middle) == "renew within 666");
  lease.failed(at(1333ms));
  CHECK(step(lease, 1333ms, middle) == "wait until 1400");  // a thirtieth of the TTL
  CHECK(step(lease, 1400ms, middle) == "renew within 400");
  lease.failed(at(1800ms));
  CHECK(step(lease, 1800ms, middle) == "lost");
}

TEST_CASE("renewal: the store's word that the lease is gone ends it at once, and for good") {
  LeaseRenewal lease(at(0ms), 30s);
  lease.renewed(at(10s), 0s);
  CHECK(step(lease, 10s, middle) == "lost");
  lease.renewed(at(11s), 30s);  // no way back but a new grant
  CHECK(step(lease, 11s, middle) == "lost");
  CHECK_FALSE(lease.fresh(at(11s)));
  lease.granted(at(12s), 30s);
  CHECK(step(lease, 12s, middle) == "wait until 22000");
  lease.gone();
  CHECK(step(lease, 12s, middle) == "lost");
}

TEST_CASE("renewal: lost by the local deadline is final too, even when an answer comes after all") {
  LeaseRenewal lease(at(0ms), 30s);
  CHECK(step(lease, 40s, middle) == "lost");
  lease.renewed(at(28s), 30s);
  CHECK(step(lease, 40s, middle) == "lost");
  CHECK(lease.expires_at() == at(29s));
}

TEST_CASE("renewal: an answer that comes late counts from its own sending") {
  LeaseRenewal lease(at(0ms), 30s);
  lease.renewed(at(10s), 30s);
  lease.renewed(at(20s), 30s);
  CHECK(lease.expires_at() == at(49s));
  lease.renewed(at(15s), 30s);  // an older one: nothing new in it
  CHECK(lease.expires_at() == at(49s));
  CHECK(step(lease, 21s, middle) == "wait until 30000");
  // The answer to the last try arrives just before the deadline and gives only what is left of its own TTL.
  LeaseRenewal slow(at(0ms), 30s);
  slow.renewed(at(1s), 30s);
  CHECK(slow.expires_at() == at(30s));
  CHECK(step(slow, 30s, middle) == "lost");
}

TEST_CASE("renewal: answers about an earlier lease do not touch the new one") {
  LeaseRenewal lease(at(0ms), 30s);
  lease.granted(at(60s), 30s);
  lease.renewed(at(29s), 0s);
  lease.renewed(at(29s), 90s);
  CHECK_FALSE(lease.lost());
  CHECK(lease.expires_at() == at(89s));
}

TEST_CASE("renewal: the TTL may change with a renewal, in both directions") {
  LeaseRenewal lease(at(0ms), 30s);
  lease.renewed(at(10s), 60s);
  CHECK(lease.ttl() == 60s);
  CHECK(step(lease, 10s, middle) == "wait until 30000");
  CHECK(lease.expires_at() == at(69s));
  lease.renewed(at(30s), 6s);
  CHECK(lease.expires_at() == at(35400ms));
  CHECK(step(lease, 30s, middle) == "wait until 32000");
  CHECK(step(lease, 32s, middle) == "renew within 2000");
}

TEST_CASE("renewal: fresh means at least half of the TTL is left") {
  LeaseRenewal lease(at(0ms), 30s);
  CHECK(lease.fresh(at(0ms)));
  CHECK(lease.fresh(at(11s)));  // the latest moment of a renewal
  CHECK(lease.fresh(at(15s)));
  CHECK_FALSE(lease.fresh(at(15001ms)));
  lease.renewed(at(16s), 30s);
  CHECK(lease.fresh(at(17s)));
  CHECK_FALSE(LeaseRenewal().fresh(at(0ms)));
}

TEST_CASE("renewal: without a lease, or with a grant of nothing, there is nothing to keep") {
  LeaseRenewal none;
  CHECK(step(none, 0ms, middle) == "lost");
  LeaseRenewal empty(at(0ms), 0s);
  CHECK(step(empty, 0ms, middle) == "lost");
}

TEST_CASE("renewal: the longest TTL of etcd does not overflow") {
  const auto now = at(24h * 365 * 50);  // a machine that has been up for long
  LeaseRenewal lease(now, seconds(9'000'000'000));
  CHECK(lease.expires_at() > now + 24h * 365 * 30);
  CHECK(lease.next(now, late).kind == RenewalAction::Wait);
  CHECK(lease.next(now, late).at > now + 24h * 365);
  lease.failed(now + 1s);
  CHECK(lease.next(now + 1s, late).at < now + 10s);  // a retry pause stays short
}

TEST_CASE("renewal: random lives never claim a lease past the store's deadline, and always move on") {
  std::mt19937_64 random(rig::test_seed("renewal"));
  std::uniform_real_distribution<double> draw(0.0, 1.0);
  for (int round = 0; round < 300; ++round) {
    const auto ttl = seconds(1 + static_cast<int>(draw(random) * 60));
    const double failing = draw(random);
    auto now = at(0ms);
    auto real_deadline = now + ttl;  // no store ends the lease before this
    LeaseRenewal lease(now, ttl);
    for (int turn = 0; turn < 200; ++turn) {
      const RenewalAction action = lease.next(now, draw(random));
      if (action.kind == RenewalAction::Lost) break;
      REQUIRE(now < real_deadline);
      REQUIRE(lease.expires_at() < real_deadline);
      if (action.kind == RenewalAction::Wait) {
        REQUIRE(action.at > now);
        REQUIRE(action.at <= lease.expires_at());
        now = action.at;
        continue;
      }
      REQUIRE(action.timeout >= 1ms);
      REQUIRE(now + action.timeout <= lease.expires_at());
      const auto sent = now;
      if (draw(random) < failing) {
        now += action.timeout;
        lease.failed(now);
      } else {
        now += std::chrono::duration_cast<milliseconds>(action.timeout * draw(random));
        lease.renewed(sent, ttl);
        real_deadline = sent + ttl;
      }
    }
  }
}
