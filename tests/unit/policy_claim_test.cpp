// The claim of a key as a transcript: what the store and the key guard said, and the write that follows.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdint>
#include <iterator>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "registry/policy/claim.hpp"
#include "rig/seed.hpp"

using namespace registry;
using detail::Claim;
using detail::ClaimAction;
using namespace std::chrono_literals;

namespace {

constexpr std::int64_t L1 = 101, L2 = 102, L3 = 103, other = 900;

KeyValue held(std::string value, std::int64_t mod, std::int64_t lease, std::int64_t create = -1) {
  KeyValue kv;
  kv.key = "/s/a";
  kv.value = std::move(value);
  kv.mod_revision = mod;
  kv.create_revision = create == -1 ? 1 : create;
  kv.lease = lease;
  return kv;
}

Written applied() {
  Written result;
  result.applied = true;
  return result;
}
Written refused(std::optional<KeyValue> found = {}) {
  Written result;
  result.found = std::move(found);
  return result;
}

std::string show(const ClaimAction& action) {
  switch (action.kind) {
    case ClaimAction::None: return "none";
    case ClaimAction::NeedLease: return "need lease";
    case ClaimAction::Displaced: return "displaced: " + make_error_code(action.reason).message();
    case ClaimAction::Conflict: return "conflict: " + make_error_code(action.reason).message();
    case ClaimAction::Done: return "done";
    case ClaimAction::Write: break;
  }
  const auto& write = action.write;
  const std::string at = " if " + std::to_string(write.expected);
  return write.value ? "put " + *write.value + " on " + std::to_string(write.lease) + at : "delete" + at;
}

struct Script {
  Claim claim;
  explicit Script(ConflictPolicy policy = ConflictPolicy::TakeOver) : claim("/s/a", policy) {}

  std::string next() { return show(claim.next()); }
  void see(const KeyValue& kv) { claim.observed(&kv, kv.mod_revision); }
  void see_absent(std::int64_t at) { claim.observed(nullptr, at); }
  void fail(errc code) { claim.write_failed(make_error_code(code)); }

  // Registered: "v" at revision 10 on L1.
  Script& registered(std::chrono::seconds ttl = 0s) {
    claim.desire("v", ttl);
    claim.lease(L1, ttl);
    CHECK(next() == "put v on 101 if 0");
    claim.written(applied(), 10);
    CHECK(claim.settled());
    CHECK(next() == "none");
    return *this;
  }
};

}  // namespace

TEST_CASE("claim: the first claim needs a lease and creates the key") {
  Script s;
  CHECK(s.next() == "done");
  s.claim.desire("v");
  CHECK(s.next() == "need lease");
  s.claim.lease(L1);
  CHECK(s.next() == "put v on 101 if 0");
  CHECK(s.next() == "none");  // one write at a time
  CHECK_FALSE(s.claim.settled());
  s.claim.written(applied(), 10);
  CHECK(s.claim.settled());
  CHECK(s.claim.revision() == 10);
}

TEST_CASE("claim: a key without a lease is never taken") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.claim.written(refused(held("x", 5, 0)), 9);
  CHECK(s.next() == "conflict: the key exists without a lease and is never taken over");
}

TEST_CASE("claim: with ConflictPolicy::Fail another lease is a conflict") {
  Script s(ConflictPolicy::Fail);
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.claim.written(refused(held("x", 5, other)), 9);
  CHECK(s.next() == "conflict: another owner holds the key");
}

TEST_CASE("claim: a take-over compares the revision, and follows a holder that merely changes") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.claim.written(refused(held("x", 5, other)), 9);
  CHECK(s.next() == "put v on 101 if 5");
  s.claim.written(refused(held("y", 11, other)), 12);
  CHECK(s.next() == "put v on 101 if 11");
  s.claim.written(applied(), 13);
  CHECK(s.claim.settled());
  SUBCASE("and never again") {
    s.see(held("z", 14, other));
    CHECK(s.next() == "displaced: another owner has taken the key over");
  }
  SUBCASE("gone holders are not compared with") {
    Script t;
    t.claim.desire("v");
    t.claim.lease(L1);
    t.next();
    t.claim.written(refused(held("x", 5, other)), 9);
    t.next();
    t.claim.written(refused(), 10);
    CHECK(t.next() == "put v on 101 if 0");
  }
}

TEST_CASE("claim: a take-over that may have been done is not done twice") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.claim.written(refused(held("x", 5, other)), 9);
  CHECK(s.next() == "put v on 101 if 5");
  s.fail(errc::outcome_unknown);
  CHECK(s.next() == "put v on 101 if 5");
  SUBCASE("it was done") {
    s.claim.written(refused(held("v", 10, L1)), 12);
    CHECK(s.claim.settled());
  }
  SUBCASE("somebody followed") {
    s.claim.written(refused(held("z", 11, 901)), 12);
    CHECK(s.next() == "conflict: another owner holds the key");
  }
}

TEST_CASE("claim: a refused create that finds our own lease has landed before") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.fail(errc::outcome_unknown);
  CHECK(s.next() == "put v on 101 if 0");
  SUBCASE("with our value") {
    s.claim.written(refused(held("v", 8, L1, 8)), 9);
    CHECK(s.claim.settled());
    CHECK(s.claim.revision() == 8);
    CHECK(s.claim.doubtful_leases().empty());
  }
  SUBCASE("with an older value") {
    s.claim.desire("w");
    s.claim.written(refused(held("v", 8, L1, 8)), 9);
    CHECK(s.next() == "put w on 101 if 8");
  }
}

TEST_CASE("claim: a definite failure repeats the same write") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.fail(errc::unavailable);
  CHECK(s.next() == "put v on 101 if 0");
  CHECK(s.claim.doubtful_leases().empty());
}

TEST_CASE("claim: an update compares with our revision and keeps the lease") {
  Script s;
  s.registered();
  s.claim.desire("w");
  CHECK(s.next() == "put w on 101 if 10");
  SUBCASE("applied") {
    s.claim.written(applied(), 11);
    CHECK(s.claim.settled());
  }
  SUBCASE("not answered, applied") {
    s.fail(errc::outcome_unknown);
    CHECK(s.next() == "put w on 101 if 10");
    s.claim.written(refused(held("w", 11, L1)), 12);
    CHECK(s.claim.settled());
  }
  SUBCASE("not answered, taken back: the old value must be written again") {
    s.fail(errc::outcome_unknown);
    s.claim.desire("v");
    CHECK(s.next() == "put v on 101 if 10");
  }
  SUBCASE("failed, given up") {
    s.fail(errc::too_large);
    s.claim.revert();
    CHECK(s.next() == "none");
  }
  SUBCASE("refused, the key is gone") {
    s.claim.written(refused(), 12);
    CHECK(s.claim.lost());
    CHECK(s.next() == "put w on 101 if 0");
  }
  SUBCASE("given up while the key is gone: what was registered before is registered again") {
    s.claim.written(refused(), 12);
    CHECK(s.next() == "put w on 101 if 0");
    s.fail(errc::too_large);
    s.claim.revert();
    CHECK(s.next() == "put v on 101 if 0");
  }
  SUBCASE("refused, taken over") {
    s.claim.written(refused(held("x", 12, other)), 12);
    CHECK(s.next() == "displaced: another owner has taken the key over");
  }
}

TEST_CASE("claim: a lost lease is followed by a create, never by a take-over") {
  Script s;
  s.registered();
  s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
  CHECK(s.claim.lost());
  CHECK(s.claim.lost_why() == errc::lease_lost);
  CHECK(s.next() == "need lease");
  s.claim.lease(L2);
  CHECK(s.next() == "put v on 102 if 0");
  SUBCASE("free") {
    s.claim.written(applied(), 20);
    CHECK(s.claim.settled());
    CHECK_FALSE(s.claim.lost());
  }
  SUBCASE("still ours on the old lease: moved") {
    s.claim.written(refused(held("v", 10, L1, 10)), 20);
    CHECK(s.claim.lost());
    CHECK(s.next() == "put v on 102 if 10");
    s.claim.written(applied(), 21);
    CHECK_FALSE(s.claim.lost());
    CHECK(s.claim.settled());
  }
  SUBCASE("a successor is there: it stays") {
    s.claim.written(refused(held("x", 15, other)), 20);
    CHECK(s.next() == "displaced: another owner has taken the key over");
    CHECK(s.next() == "displaced: another owner has taken the key over");
  }
  SUBCASE("a key without a lease stays") {
    s.claim.written(refused(held("x", 15, 0)), 20);
    CHECK(s.next() == "displaced: the key exists without a lease and is never taken over");
  }
  SUBCASE("displaced is final until desired again, which may take over") {
    s.claim.written(refused(held("x", 15, other)), 20);
    s.claim.desire_absent();
    CHECK(s.next() == "done");
    s.claim.desire("v");
    CHECK(s.next() == "put v on 102 if 0");
    s.claim.written(refused(held("x", 15, other)), 20);
    CHECK(s.next() == "put v on 102 if 15");
  }
}

TEST_CASE("claim: moving to another lease is a swap of what is ours, and no loss") {
  Script s;
  s.registered();
  s.claim.leave(L1);  // it was split
  s.claim.lease(L2);
  CHECK_FALSE(s.claim.lost());
  CHECK(s.next() == "put v on 102 if 10");
  s.claim.written(applied(), 11);
  CHECK(s.claim.settled());
  s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
  CHECK(s.claim.settled());
}

TEST_CASE("claim: a key that was not moved in time from a lease we left is lost when that lease ends") {
  Script s;
  s.registered();
  s.claim.leave(L1);
  s.claim.lease(L2);
  CHECK(s.next() == "put v on 102 if 10");
  s.fail(errc::permission_denied);
  s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
  CHECK(s.claim.lost());
  CHECK(s.claim.lost_why() == errc::permission_denied);
  CHECK(s.next() == "put v on 102 if 0");
}

using Ids = std::vector<std::int64_t>;

TEST_CASE("claim: another TTL: the key stays on its lease until one write has moved it") {
  Script s;
  s.registered(30s);
  SUBCASE("and the value with it") {
    s.claim.desire("w", 60s);
    CHECK(s.next() == "need lease");
    CHECK(s.claim.ttl() == 60s);
    CHECK(s.claim.spare_leases().empty());
    s.claim.lease(L2, 60s);
    CHECK(s.next() == "put w on 102 if 10");
    CHECK(s.next() == "none");
    CHECK_FALSE(s.claim.settled());
    CHECK(s.claim.spare_leases().empty());
    s.claim.written(applied(), 11);
    CHECK(s.claim.settled());
    CHECK_FALSE(s.claim.lost());
    CHECK(s.claim.current_lease() == L2);
    CHECK(s.claim.spare_leases() == Ids{L1});
    s.claim.leave(L1);
    CHECK(s.claim.spare_leases().empty());
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    CHECK(s.claim.settled());
    CHECK(s.next() == "none");
  }
  SUBCASE("back before there is a lease: nothing was to do, and one that comes late is spare") {
    s.claim.desire("v", 60s);
    CHECK(s.next() == "need lease");
    s.claim.desire("v", 30s);
    CHECK(s.claim.settled());
    CHECK(s.next() == "none");
    s.claim.lease(L2, 60s);
    CHECK(s.claim.settled());
    CHECK(s.claim.spare_leases() == Ids{L2});
  }
  SUBCASE("a lease of a TTL that is no longer wanted does not take it") {
    s.claim.desire("v", 60s);
    s.next();
    s.claim.desire("v", 90s);
    s.claim.lease(L2, 60s);
    CHECK(s.next() == "need lease");
    s.claim.lease(L3, 90s);
    CHECK(s.next() == "put v on 103 if 10");
    s.claim.written(applied(), 11);
    CHECK(s.claim.spare_leases() == Ids{L1, L2});
  }
  SUBCASE("removed meanwhile") {
    s.claim.desire("v", 60s);
    s.claim.desire_absent();
    CHECK(s.next() == "delete if 10");
  }
  SUBCASE("no lease can be had for good: as before") {
    s.claim.desire("w", 60s);
    CHECK(s.next() == "need lease");
    s.claim.revert();
    CHECK(s.claim.settled());
    CHECK(s.claim.ttl() == 30s);
    CHECK(s.next() == "none");
  }
}

TEST_CASE("claim: another TTL, and what goes wrong before the key has a lease of it") {
  Script s;
  s.registered(30s);
  s.claim.desire("v", 60s);
  CHECK(s.next() == "need lease");
  SUBCASE("the old lease is lost: the key is created on the new one") {
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    CHECK(s.claim.lost());
    CHECK(s.claim.lost_why() == errc::lease_lost);
    CHECK(s.next() == "need lease");
    s.claim.lease(L2, 60s);
    CHECK(s.next() == "put v on 102 if 0");
    s.claim.written(applied(), 12);
    CHECK(s.claim.settled());
    CHECK_FALSE(s.claim.lost());
  }
  SUBCASE("deleted by someone else") {
    s.see_absent(11);
    CHECK(s.claim.lost_why() == errc::key_deleted);
    s.claim.lease(L2, 60s);
    CHECK(s.next() == "put v on 102 if 0");
  }
  SUBCASE("taken over") {
    s.see(held("x", 11, other));
    CHECK(s.next() == "displaced: another owner has taken the key over");
  }
  SUBCASE("the store is a restored one") {
    s.claim.forget();
    CHECK(s.claim.lost_why() == errc::store_changed);
    CHECK(s.next() == "need lease");
    s.claim.lease(L2, 60s);
    CHECK(s.next() == "put v on 102 if 0");
    s.claim.written(refused(held("u", 3, L1, 3)), 4);
    CHECK(s.next() == "put v on 102 if 3");
  }
}

TEST_CASE("claim: another TTL, and what goes wrong while the key is moved") {
  Script s;
  s.registered(30s);
  s.claim.desire("v", 60s);
  s.claim.lease(L2, 60s);
  CHECK(s.next() == "put v on 102 if 10");
  SUBCASE("not answered, and applied") {
    s.fail(errc::outcome_unknown);
    CHECK(s.claim.spare_leases().empty());
    CHECK(s.next() == "put v on 102 if 10");
    s.claim.written(refused(held("v", 11, L2)), 12);
    CHECK(s.claim.settled());
    CHECK(s.claim.spare_leases() == Ids{L1});
  }
  SUBCASE("not answered, then seen by the guard") {
    s.fail(errc::outcome_unknown);
    s.see(held("v", 11, L2));
    CHECK(s.claim.settled());
  }
  SUBCASE("in doubt, and the old TTL again: written again, so that it cannot land later") {
    s.fail(errc::outcome_unknown);
    s.claim.desire("v", 30s);
    CHECK_FALSE(s.claim.settled());
    CHECK(s.next() == "put v on 101 if 10");
    SUBCASE("it had not landed") {
      s.claim.written(applied(), 11);
      CHECK(s.claim.settled());
      CHECK(s.claim.spare_leases() == Ids{L2});
    }
    SUBCASE("it had") {
      s.claim.written(refused(held("v", 11, L2)), 12);
      CHECK(s.claim.spare_leases().empty());
      CHECK(s.next() == "put v on 101 if 11");
    }
  }
  SUBCASE("the new lease is lost, the write was refused for that: the key is where it was, and no loss") {
    s.fail(errc::lease_lost);
    s.claim.lease_gone(L2, make_error_code(errc::lease_lost));
    CHECK_FALSE(s.claim.lost());
    CHECK(s.next() == "need lease");
    s.claim.lease(L3, 60s);
    CHECK(s.next() == "put v on 103 if 10");
  }
  SUBCASE("the new lease is lost and may have taken the key along") {
    SUBCASE("not answered") { s.fail(errc::outcome_unknown); }
    SUBCASE("under way") {}
    s.claim.lease_gone(L2, make_error_code(errc::lease_lost));
    CHECK(s.claim.lost());
    if (s.next() == "none") s.fail(errc::outcome_unknown);
    CHECK(s.next() == "need lease");
    s.claim.lease(L3, 60s);
    CHECK(s.next() == "put v on 103 if 0");
    SUBCASE("it has") {
      s.claim.written(applied(), 13);
      CHECK(s.claim.settled());
      CHECK(s.claim.spare_leases() == Ids{L1});
    }
    SUBCASE("it has not") {
      s.claim.written(refused(held("v", 10, L1, 10)), 13);
      CHECK_FALSE(s.claim.lost());  // its lease is still renewed
      CHECK(s.next() == "put v on 103 if 10");
    }
  }
  SUBCASE("the old lease is lost, the key had been moved before") {
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    CHECK(s.claim.lost());
    s.claim.written(applied(), 11);
    CHECK(s.claim.settled());
    CHECK_FALSE(s.claim.lost());
  }
  SUBCASE("the old lease is lost, and the key with it") {
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    s.claim.written(refused(), 12);
    CHECK(s.claim.lost_why() == errc::lease_lost);
    CHECK(s.next() == "put v on 102 if 0");
  }
  SUBCASE("taken over") {
    s.claim.written(refused(held("x", 11, other)), 12);
    CHECK(s.next() == "displaced: another owner has taken the key over");
    CHECK(s.claim.spare_leases().empty());
  }
  SUBCASE("deleted by someone else") {
    s.claim.written(refused(), 12);
    CHECK(s.claim.lost_why() == errc::key_deleted);
    CHECK(s.next() == "put v on 102 if 0");
  }
  SUBCASE("refused for good after the old lease is lost: it is claimed again with the TTL of before") {
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    s.fail(errc::permission_denied);
    s.claim.revert();
    CHECK(s.claim.ttl() == 30s);
    CHECK(s.next() == "need lease");
  }
  SUBCASE("refused for good: as before, and the new lease is spare") {
    s.fail(errc::permission_denied);
    s.claim.revert();
    CHECK(s.claim.settled());
    CHECK(s.claim.ttl() == 30s);
    CHECK(s.claim.current_lease() == L1);
    CHECK(s.claim.spare_leases() == Ids{L2});
  }
  SUBCASE("removed: what lands late on the new lease is deleted") {
    s.claim.desire_absent();
    s.fail(errc::outcome_unknown);
    CHECK(s.next() == "delete if 10");
    s.claim.written(refused(held("v", 11, L2)), 12);
    CHECK(s.next() == "delete if 11");
  }
  SUBCASE("the store is a restored one") {
    s.claim.forget();
    s.claim.written(refused(), 4);
    CHECK(s.next() == "put v on 102 if 0");
  }
}

TEST_CASE("claim: the guard") {
  Script s;
  s.registered();
  SUBCASE("confirms") {
    s.see(held("v", 10, L1, 10));
    CHECK(s.next() == "none");
  }
  SUBCASE("old news are ignored") {
    s.see_absent(9);
    s.see(held("x", 8, other));
    CHECK(s.claim.settled());
  }
  SUBCASE("deleted from outside: restored by a create") {
    s.see_absent(12);
    CHECK(s.claim.lost());
    CHECK(s.next() == "put v on 101 if 0");
    s.claim.written(applied(), 13);
    CHECK_FALSE(s.claim.lost());
    CHECK(s.claim.settled());
  }
  SUBCASE("taken over") {
    s.see(held("v", 12, other));
    CHECK(s.next() == "displaced: another owner has taken the key over");
  }
  SUBCASE("overwritten without a lease") {
    s.see(held("v", 12, 0));
    CHECK(s.next() == "displaced: the key exists without a lease and is never taken over");
  }
  SUBCASE("somebody wrote under our lease: the wanted value comes back") {
    s.see(held("x", 12, L1));
    CHECK_FALSE(s.claim.lost());
    CHECK(s.next() == "put v on 101 if 12");
  }
  SUBCASE("a late write of ours under our lease is taken as it is") {
    s.see(held("v", 12, L1));
    CHECK(s.claim.settled());
    CHECK(s.claim.revision() == 12);
  }
  SUBCASE("another owner before our own first answer is no displacement") {
    Script t;
    t.claim.desire("v");
    t.claim.lease(L1);
    t.see(held("x", 5, other));
    CHECK(t.next() == "put v on 101 if 0");
  }
}

TEST_CASE("claim: the guard may be faster than the answer") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.see(held("v", 10, L1, 10));
  SUBCASE("then confirmed") {
    s.claim.written(applied(), 10);
    CHECK(s.claim.settled());
  }
  SUBCASE("then unknown: it has been seen, there is no doubt") {
    s.fail(errc::outcome_unknown);
    CHECK(s.claim.settled());
    CHECK(s.claim.doubtful_leases().empty());
  }
  SUBCASE("and deleted before the answer") {
    s.see_absent(11);
    s.claim.written(applied(), 10);
    CHECK_FALSE(s.claim.settled());
    CHECK(s.next() == "put v on 101 if 0");
  }
  SUBCASE("and taken over before the answer") {
    s.see(held("x", 11, other));
    s.claim.written(applied(), 10);
    CHECK(s.next() == "displaced: another owner has taken the key over");
  }
}

TEST_CASE("claim: a folded guard that shows only the successor of our first write") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.see(held("x", 11, other));
  s.claim.written(applied(), 10);
  CHECK(s.next() == "displaced: another owner has taken the key over");
}

TEST_CASE("claim: absent is wanted") {
  Script s;
  s.registered();
  s.claim.desire_absent();
  CHECK(s.next() == "delete if 10");
  SUBCASE("deleted") {
    s.claim.written(applied(), 11);
    CHECK(s.next() == "done");
  }
  SUBCASE("already gone") {
    s.claim.written(refused(), 11);
    CHECK(s.next() == "done");
  }
  SUBCASE("another owner's is left") {
    s.claim.written(refused(held("x", 11, other)), 12);
    CHECK(s.next() == "done");
  }
  SUBCASE("ours at another revision is deleted too") {
    s.claim.written(refused(held("w", 11, L1)), 12);
    CHECK(s.next() == "delete if 11");
  }
  SUBCASE("failures repeat it") {
    s.fail(errc::unavailable);
    CHECK(s.next() == "delete if 10");
    s.fail(errc::outcome_unknown);
    CHECK(s.next() == "delete if 10");
    s.claim.written(refused(), 12);
    CHECK(s.next() == "done");
  }
  SUBCASE("the lease is gone, and the key with it") {
    s.fail(errc::unavailable);
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    CHECK(s.next() == "done");
  }
  SUBCASE("a delete in doubt and wanted again: written again, so that the delete cannot land later") {
    s.fail(errc::outcome_unknown);
    s.claim.desire("v");
    CHECK(s.next() == "put v on 101 if 10");
  }
}

TEST_CASE("claim: a create in doubt may land after the key was removed") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.fail(errc::outcome_unknown);
  s.claim.desire_absent();
  CHECK(s.next() == "delete if 0");  // what is there?
  CHECK_FALSE(s.claim.lingering());
  s.claim.written(refused(), 20);
  CHECK(s.next() == "none");
  CHECK(s.claim.lingering());
  SUBCASE("it lands: deleted, and nothing is in doubt any more") {
    s.see(held("v", 21, L1, 21));
    CHECK(s.next() == "delete if 21");
    s.claim.written(applied(), 22);
    CHECK(s.next() == "done");
  }
  SUBCASE("the lease goes") {
    s.claim.lease_gone(L1, make_error_code(errc::lease_lost));
    CHECK(s.next() == "done");
  }
  SUBCASE("nobody watches: look again") {
    s.claim.probe();
    CHECK(s.next() == "delete if 0");
    s.claim.written(refused(held("v", 21, L1, 21)), 22);
    CHECK(s.next() == "delete if 21");
  }
  SUBCASE("wanted again: what lands late is adopted") {
    s.claim.desire("w");
    CHECK(s.next() == "put w on 101 if 0");
    s.claim.written(refused(held("v", 21, L1, 21)), 22);
    CHECK(s.next() == "put w on 101 if 21");
  }
}

TEST_CASE("claim: two creates in doubt, one seen") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  for (int i = 0; i < 2; ++i) {
    s.next();
    s.fail(errc::outcome_unknown);
  }
  s.next();
  s.claim.written(refused(held("v", 8, L1, 8)), 9);
  s.claim.desire_absent();
  CHECK(s.next() == "delete if 8");
  s.claim.written(applied(), 10);
  CHECK(s.next() == "none");
  CHECK(s.claim.lingering());
}

TEST_CASE("claim: removed while its write is under way") {
  Script s;
  s.claim.desire("v");
  s.claim.lease(L1);
  s.next();
  s.claim.desire_absent();
  CHECK(s.next() == "none");
  s.claim.written(applied(), 10);
  CHECK(s.next() == "delete if 10");
}

TEST_CASE("claim: a restored store starts over") {
  Script s;
  s.registered();
  SUBCASE("seen by the guard") {
    s.claim.forget();
    CHECK(s.claim.lost_why() == errc::store_changed);
    CHECK(s.next() == "put v on 101 if 0");
    s.claim.written(refused(held("v", 3, L1, 3)), 4);
    CHECK(s.claim.settled());
  }
  SUBCASE("seen by an answer") {
    s.claim.desire("w");
    s.next();
    s.claim.written(refused(), 4);
    CHECK(s.next() == "put w on 101 if 0");
    s.claim.written(applied(), 5);
    CHECK(s.claim.settled());
  }
}

// A store of one key, two claims and an outsider. Writes are lost, or land late, or land and are not
// answered; the guards lag and fold. Checked at every write: nobody is evicted but by one write of an
// explicit claim.
namespace {

struct Model {
  std::optional<KeyValue> kv;
  std::int64_t revision = 1;
  std::set<std::int64_t> leases;

  Written commit(const registry::Write& write, bool* evicted) {
    Written result;
    const std::int64_t mod = kv ? kv->mod_revision : 0;
    if (mod != write.expected || (!write.value && !kv)) {
      result.found = kv;
      return result;
    }
    result.applied = true;
    ++revision;
    if (!write.value) {
      kv.reset();
      return result;
    }
    if (evicted != nullptr) *evicted = kv && kv->lease != write.lease;
    const std::int64_t created = kv ? kv->create_revision : revision;
    kv = held(*write.value, revision, write.lease, created);
    return result;
  }

  void end_lease(std::int64_t id) {
    leases.erase(id);
    if (kv && kv->lease == id) {
      kv.reset();
      ++revision;
    }
  }
};

struct Actor {
  Claim claim{"/s/a", ConflictPolicy::TakeOver};
  std::set<std::int64_t> mine;                        // every lease it ever had
  std::set<std::int64_t> kept;                        // those it renews
  int attempt = 0;                                    // explicit claims so far
  std::map<int, int> takes;                           // evictions of each
  bool out = false;                                   // displaced or refused
  std::int64_t guard = 0;                             // the guard has shown everything up to here
  std::vector<std::pair<registry::Write, int>> late;  // in doubt: may land yet; and of which attempt
};

class World {
 public:
  explicit World(unsigned seed) : random_(seed) {}

  void run() {
    for (int step = 0; step < 400; ++step) {
      Actor& actor = actors_[pick(2)];
      switch (pick(14)) {
        case 0:
          if (!actor.claim.wanted() || pick(4) == 0) register_again(actor);
          break;
        case 1:
          if (pick(3) == 0) actor.claim.desire_absent();
          break;
        case 2:
          if (pick(3) == 0 && !actor.kept.empty()) expire(actor, one_of(actor.kept));
          break;
        case 3: outsider(); break;
        case 4: land_late(actor); break;
        case 5:
        case 6: observe(actor); break;
        default: act(actor, true);
      }
      check();
    }
    settle();
  }

  // One claim alone, with three TTLs and three values; writes are lost, late, unanswered or refused for good, and leases
  // that the key is not on are lost. It is there all the time, and on a lease that is renewed.
  void run_alone() {
    alone_ = true;
    Actor& actor = actors_[0];
    actor.claim.desire("v", 30s);
    while (!actor.claim.settled()) act(actor, false);
    for (int step = 0; step < 400; ++step) {
      switch (pick(12)) {
        case 0:
        case 1: actor.claim.desire("v" + std::to_string(pick(3)), 30s * (1 + pick(3))); break;
        case 2: {
          std::set<std::int64_t> without = actor.kept;
          without.erase(store_.kv->lease);
          if (!without.empty()) expire(actor, one_of(without));
          break;
        }
        case 3: land_late(actor); break;
        case 4:
        case 5: observe(actor); break;
        default: act(actor, true);
      }
      REQUIRE(store_.kv);
      REQUIRE(actor.kept.contains(store_.kv->lease));
      REQUIRE(store_.leases.contains(store_.kv->lease));
    }
    settle();
    CHECK(actor.kept.size() == 1);
  }

 private:
  unsigned pick(unsigned n) { return static_cast<unsigned>(random_() % n); }
  std::int64_t one_of(const std::set<std::int64_t>& ids) {
    return *std::next(ids.begin(), pick(static_cast<unsigned>(ids.size())));
  }

  void register_again(Actor& actor) {
    if (!actor.claim.wanted()) ++actor.attempt;
    if (!actor.claim.wanted()) actor.out = false;
    actor.claim.desire("v" + std::to_string(pick(3)), pick(3) == 0 ? 60s : 30s);
  }

  void expire(Actor& actor, std::int64_t id) {
    actor.kept.erase(id);
    // The owner knows first (its deadline is the earlier one) or is told later by the store.
    actor.claim.lease_gone(id, make_error_code(errc::lease_lost));
    if (alone_ || pick(2) == 0) store_.end_lease(id);
  }

  void outsider() {
    if (pick(3) == 0 && store_.kv) {
      store_.kv.reset();
      ++store_.revision;
    } else if (pick(6) == 0) {
      ++store_.revision;
      store_.kv = held("x", store_.revision, 7, store_.kv ? store_.kv->create_revision : store_.revision);
      store_.leases.insert(7);
    } else if (pick(3) == 0) {
      store_.end_lease(7);
    } else if (pick(4) == 0) {
      for (const auto id : std::set<std::int64_t>(store_.leases)) {
        if (!actors_[0].kept.contains(id) && !actors_[1].kept.contains(id)) store_.end_lease(id);
      }
    }
  }

  // Revoked, unless others need them.
  void drop_spare(Actor& actor) {
    for (const std::int64_t id : actor.claim.spare_leases()) {
      if (store_.kv && store_.kv->mod_revision == actor.claim.revision()) CHECK(store_.kv->lease != id);
      actor.claim.leave(id);
      actor.kept.erase(id);
      if (pick(2) == 0) continue;
      store_.end_lease(id);
      actor.claim.lease_gone(id, make_error_code(errc::lease_lost));
    }
  }

  void observe(Actor& actor) {
    if (actor.guard >= store_.revision) return;
    actor.guard = store_.revision;
    actor.claim.observed(store_.kv ? &*store_.kv : nullptr,
                         store_.kv && pick(2) == 0 ? store_.kv->mod_revision : store_.revision);
  }

  void commit(Actor& actor, const registry::Write& write, int attempt, Written* answer) {
    if (write.value && !store_.leases.contains(write.lease)) {
      if (answer != nullptr) dead_lease_ = true;
      return;
    }
    bool evicted = false;
    const auto before = store_.kv;
    const Written result = store_.commit(write, &evicted);
    if (answer != nullptr) *answer = result;
    if (result.applied && !write.value) CHECK(actor.mine.contains(before->lease));  // only our own is deleted
    if (evicted && !actor.mine.contains(before->lease)) {
      CHECK(before->lease != 0);
      ++actor.takes[attempt];
    }
  }

  void land_late(Actor& actor) {
    if (actor.late.empty()) return;
    const auto at = actor.late.begin() + pick(static_cast<unsigned>(actor.late.size()));
    const auto [write, attempt] = *at;
    actor.late.erase(at);
    commit(actor, write, attempt, nullptr);
  }

  void act(Actor& actor, bool faults) {
    const ClaimAction action = actor.claim.next();
    switch (action.kind) {
      case ClaimAction::NeedLease:
        if (faults && pick(4) == 0) break;
        store_.leases.insert(++next_lease_);
        actor.kept.insert(next_lease_);
        actor.mine.insert(next_lease_);
        actor.claim.lease(next_lease_, actor.claim.ttl());
        break;
      case ClaimAction::Displaced:
      case ClaimAction::Conflict:
        actor.out = true;
        actor.claim.desire_absent();
        break;
      case ClaimAction::Write: {
        Written answer;
        dead_lease_ = false;
        const unsigned fate = faults ? pick(6) : 5;
        if (fate == 0 && pick(3) == 0) {
          actor.claim.write_failed(make_error_code(errc::permission_denied));
          actor.claim.revert();
        } else if (fate == 0) {  // never sent
          actor.claim.write_failed(make_error_code(errc::unavailable));
        } else if (fate == 1) {  // sent, may land yet
          actor.late.emplace_back(action.write, actor.attempt);
          actor.claim.write_failed(make_error_code(errc::outcome_unknown));
        } else {
          commit(actor, action.write, actor.attempt, &answer);
          const auto revision = store_.revision;
          if (faults && pick(3) == 0) observe(actor);
          if (fate == 2) {  // landed, not answered
            actor.claim.write_failed(make_error_code(errc::outcome_unknown));
          } else if (dead_lease_) {
            actor.claim.write_failed(make_error_code(errc::lease_lost));
            actor.claim.lease_gone(action.write.lease, make_error_code(errc::lease_lost));
            actor.kept.erase(action.write.lease);
          } else {
            if (faults && !alone_ && pick(4) == 0) outsider();
            if (faults && pick(4) == 0) observe(actor);
            actor.claim.written(answer, revision);
          }
        }
        break;
      }
      default: break;
    }
    drop_spare(actor);
  }

  void check() {
    for (const Actor& actor : actors_) {
      for (const auto& [attempt, takes] : actor.takes) CHECK(takes <= 1);
    }
  }

  // The faults stop: late writes land in some order, guards catch up, everybody does what is left to do.
  void settle() {
    for (int round = 0; round < 60; ++round) {
      for (Actor& actor : actors_) {
        land_late(actor);
        observe(actor);
        act(actor, false);
        check();
      }
    }
    if (store_.kv && !actors_[0].mine.contains(store_.kv->lease) &&
        !actors_[1].mine.contains(store_.kv->lease)) {
      return;  // the outsider has it
    }
    int owners = 0;
    for (Actor& actor : actors_) {
      const bool owns = store_.kv && actor.mine.contains(store_.kv->lease);
      owners += owns ? 1 : 0;
      if (actor.claim.wanted()) {
        CHECK(actor.claim.settled());
        CHECK(owns);
        CHECK(actor.claim.spare_leases().empty());
        if (owns) CHECK(store_.kv->lease == actor.claim.current_lease());
        if (owns) CHECK(actor.kept.contains(store_.kv->lease));
      } else {
        CHECK((actor.claim.lingering() || actor.claim.next().kind == ClaimAction::Done));
        // What is left under a lease that nobody renews goes with it.
        if (owns) CHECK_FALSE(actor.kept.contains(store_.kv->lease));
      }
    }
    CHECK(owners <= 1);
  }

  std::mt19937 random_;
  Model store_;
  Actor actors_[2];
  std::int64_t next_lease_ = 1000;
  bool dead_lease_ = false;
  bool alone_ = false;  // no outsider
};

}  // namespace

TEST_CASE("claim: two claims, an outsider and every fault: no fight, and peace when the faults stop") {
  const auto first = static_cast<unsigned>(rig::test_seed("claim"));
  for (unsigned i = 0; i < 3000; ++i) {
    const unsigned seed = first + i;
    CAPTURE(seed);
    World(seed).run();
  }
}

TEST_CASE("claim: TTLs that change under lost and late writes: the key is there all the time") {
  const auto first = static_cast<unsigned>(rig::test_seed("claim"));
  for (unsigned i = 0; i < 1000; ++i) {
    const unsigned seed = first + i;
    CAPTURE(seed);
    World(seed).run_alone();
  }
}

TEST_CASE("claim: two moves in doubt: the lease of one goes, and the other may land yet") {
  Script s;
  s.registered(30s);
  s.claim.desire("v", 60s);
  s.claim.lease(L2, 60s);
  CHECK(s.next() == "put v on 102 if 10");
  s.fail(errc::outcome_unknown);
  s.claim.desire("v", 90s);
  s.claim.lease(L3, 90s);
  CHECK(s.next() == "put v on 103 if 10");
  s.fail(errc::outcome_unknown);
  CHECK(s.claim.doubtful_leases() == std::vector<std::int64_t>{L2, L3});
  s.claim.desire("v", 30s);
  s.claim.lease_gone(L3, make_error_code(errc::lease_lost));
  CHECK(s.next() == "put v on 101 if 0");  // it may have been there
  s.claim.written(refused(held("v", 10, L1, 10)), 11);
  CHECK_FALSE(s.claim.settled());
  CHECK(s.claim.spare_leases().empty());  // L2 is kept: the key may go there
  CHECK(s.next() == "put v on 101 if 10");
  s.claim.written(applied(), 12);
  CHECK(s.claim.settled());
  CHECK(s.claim.spare_leases() == std::vector<std::int64_t>{L2});
}

TEST_CASE("claim: a key that could not be moved from a lease we left is lost for the reason of that") {
  for (const errc why : {errc::permission_denied, errc::unavailable}) {
    Script s;
    s.registered();
    s.claim.leave(L1);  // it was split
    s.claim.lease(L2);
    CHECK(s.next() == "put v on 102 if 10");
    s.fail(why);
    s.see_absent(11);  // L1 ran out
    CHECK(s.claim.lost());
    CHECK(s.claim.lost_why() == (why == errc::unavailable ? errc::lease_lost : why));
  }
  // In between a write was taken: what was refused before is no reason any more.
  Script s;
  s.registered();
  s.claim.desire("w");
  CHECK(s.next() == "put w on 101 if 10");
  s.fail(errc::permission_denied);
  CHECK(s.next() == "put w on 101 if 10");
  s.claim.written(applied(), 12);
  s.see_absent(13);
  CHECK(s.claim.lost_why() == errc::key_deleted);
}
