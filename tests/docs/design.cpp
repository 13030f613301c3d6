// The code of docs/design.md.
#include <doctest/doctest.h>

#include <chrono>

#include "registry/policy/renewal.hpp"

using namespace std::chrono_literals;

// begin: transcript
TEST_CASE("renewals fail until the lease must be taken for lost, a second before the store would end it") {
  using registry::RenewalAction;
  const registry::LeaseRenewal::TimePoint start(1000h);  // any moment will do: nobody reads a clock
  const double draw = 0.5;                               // and nobody draws a number
  registry::LeaseRenewal lease(start, 30s);              // granted for 30 s, asked for at `start`

  RenewalAction action = lease.next(start, draw);
  CHECK(action.kind == RenewalAction::Wait);
  CHECK(action.at == start + 10s);  // a third of the TTL

  action = lease.next(start + 10s, draw);
  CHECK(action.kind == RenewalAction::Renew);
  CHECK(action.timeout == 2s);

  lease.failed(start + 12s);  // no answer
  action = lease.next(start + 12s, draw);
  CHECK(action.kind == RenewalAction::Wait);
  CHECK(action.at == start + 13s);

  lease.failed(start + 28s);  // nor later: 17 tries fit in between
  CHECK(lease.next(start + 28s, draw).kind == RenewalAction::Wait);
  action = lease.next(start + 29s, draw);
  CHECK(action.kind == RenewalAction::Lost);
  CHECK(action.reason == registry::errc::lease_lost);
}
// end: transcript
