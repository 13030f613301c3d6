// Following a range as a transcript: what came in, what is to be done, with no clock and no event loop.
#include <doctest/doctest.h>

#include "registry/policy/watch_resume.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {

using Kind = WatchAction::Kind;
const WatchResume::TimePoint start{};

Batch batch(std::int64_t head, std::int64_t through, std::initializer_list<std::int64_t> revisions = {},
            const char* store = "s") {
  Batch made;
  made.store_id = store;
  made.head = head;
  made.through = through;
  for (const std::int64_t revision : revisions) made.changes.emplace_back().kv.mod_revision = revision;
  return made;
}

WatchResume resumed(std::int64_t revision = 10) {
  WatchResume resume(1000ms, 30000ms, 600s);
  resume.listed("s", revision, start, 0.5);
  resume.started();
  resume.batch(batch(revision, revision), start);
  return resume;
}

}  // namespace

TEST_CASE("watch resume: list, then watch behind it, then behind what was delivered") {
  WatchResume resume(1000ms, 30000ms, 600s);
  CHECK(resume.must_list());
  CHECK(resume.next() > 0);
  resume.listed("s", 10, start, 0);
  CHECK_FALSE(resume.must_list());
  CHECK(resume.next() == 11);
  resume.started();
  CHECK(resume.batch(batch(10, 10), start).kind == Kind::Deliver);
  CHECK(resume.next() == 11);
  CHECK(resume.batch(batch(2511, 13, {12, 13}), start).kind == Kind::Deliver);
  CHECK(resume.next() == 14);  // not behind the head, which a catch-up batch carries too
  CHECK(resume.batch(batch(2511, 20), start).kind == Kind::Deliver);
  CHECK(resume.next() == 21);
}

TEST_CASE("watch resume: what was delivered is not delivered again, and the position never falls") {
  WatchResume resume = resumed(10);
  CHECK(resume.batch(batch(12, 10, {9, 10}), start).kind == Kind::Ignore);
  CHECK(resume.next() == 11);
  const WatchAction partly = resume.batch(batch(12, 12, {10, 11, 12}), start);
  CHECK(partly.kind == Kind::DeliverFrom);
  CHECK(partly.from == 11);
  CHECK(resume.next() == 13);
  CHECK(resume.batch(batch(12, 5), start).kind == Kind::Ignore);
  CHECK(resume.next() == 13);
}

TEST_CASE("watch resume: a restored or replaced store is listed again") {
  WatchResume restored = resumed(100);
  restored.failed(errc::unavailable, start, 0);
  CHECK_FALSE(restored.must_list());
  restored.started();
  const WatchAction low = restored.batch(batch(99, 99), start);
  CHECK(low.kind == Kind::Relist);
  CHECK(low.reason == errc::store_changed);
  restored.failed(low.reason, start, 0);
  CHECK(restored.must_list());
  restored.listed("s", 40, start, 0);
  CHECK(restored.next() == 41);  // a new history: this is the only way down

  WatchResume replaced = resumed(100);
  CHECK(replaced.batch(batch(200, 200, {}, "other"), start).reason == errc::store_changed);
  CHECK(replaced.batch(batch(200, 200, {}, "other"), start).kind == Kind::Relist);
}

TEST_CASE(
    "watch resume: a low head right behind a list is asked about again: the store may have been wiped in "
    "between") {
  WatchResume resume(1000ms, 30000ms, 600s);
  resume.listed("s", 100, start, 0);
  resume.started();
  const WatchAction low = resume.batch(batch(3, 3), start);
  CHECK(low.kind == Kind::Relist);
  CHECK(low.reason == errc::store_changed);
  // The first time at once; a replica that keeps lagging is asked less and less often.
  CHECK(resume.failed(low.reason, start, 0).count() == 0);
  CHECK(resume.must_list());
  resume.listed("s", 100, start, 0);
  resume.started();
  CHECK(resume.batch(batch(97, 97), start).kind == Kind::Relist);
  CHECK(resume.failed(errc::store_changed, start, 0).count() > 0);
}

TEST_CASE("watch resume: far behind is listed, not replayed; but not right after a list") {
  const auto far = WatchResume::max_replay + 10;
  WatchResume resume = resumed(10);
  resume.failed(errc::unavailable, start, 0);
  resume.started();
  CHECK(resume.batch(batch(far, 10), start).kind == Kind::Deliver);
  resume.failed(errc::unavailable, start, 0);
  resume.started();
  const WatchAction action = resume.batch(batch(far + 1, 10), start);
  CHECK(action.kind == Kind::Relist);
  CHECK(action.reason == errc::compacted);

  resume.failed(action.reason, start, 0);
  resume.listed("s", 10, start, 0);
  resume.started();
  CHECK(resume.batch(batch(10 * far, 10), start).kind == Kind::Deliver);
}

TEST_CASE("watch resume: compaction lists at once, again and again only with pauses") {
  WatchResume resume = resumed(10);
  CHECK(resume.failed(errc::compacted, start, 0) == 0ms);
  CHECK(resume.must_list());
  for (int i = 0; i < 3; ++i) {
    resume.listed("s", 10, start, 0);
    resume.started();
    resume.batch(batch(10, 10), start);
    CHECK(resume.failed(errc::compacted, start, 0.5) > 0ms);
    CHECK(resume.must_list());
  }
  resume.listed("s", 10, start, 0);
  resume.started();
  resume.batch(batch(10, 10), start);
  CHECK(resume.failed(errc::future_revision, start + 60s, 0) == 0ms);  // it held for a while
  CHECK(resume.must_list());
}

TEST_CASE("watch resume: a server that accepts and breaks at once is asked less and less often") {
  WatchResume resume = resumed(10);
  std::chrono::milliseconds longest{0}, last{0};
  WatchResume::TimePoint now = start;
  for (int i = 0; i < 12; ++i) {
    last = resume.failed(errc::unavailable, now, 0.999);
    CHECK(last >= longest);
    longest = std::max(longest, last);
    resume.started();
    now += last;
    resume.batch(batch(10, 10), now);
    now += 10ms;
  }
  CHECK(last > 25s);
  CHECK(resume.failed(errc::unavailable, now + 31s, 0.999) < 100ms);  // held longer than the pause before
  CHECK_FALSE(resume.must_list());
  CHECK(resume.next() == 11);
}

TEST_CASE(
    "watch resume: the first break of what held is resumed quickly, spread by the draw; then it backs off") {
  WatchResume resume = resumed(10);
  CHECK(resume.failed(errc::unavailable, start + 5s, 0.0) == 0ms);
  for (const auto later : {10s, 15s}) {
    resume.started();
    resume.batch(batch(10, 10), start + later);
    CHECK(resume.failed(errc::unavailable, start + later + 2s, 0.5) == 50ms);
  }
  CHECK(resume.failed(errc::unavailable, start + 17s, 0.0) == 500ms);  // the try failed, too
  CHECK(resume.failed(errc::unavailable, start + 18s, 0.999) > 1000ms);

  // Broken before it held, but nothing failed before: a server that dies just after we came.
  WatchResume young = resumed(10);
  CHECK(young.failed(errc::unavailable, start + 10ms, 0.99) < 100ms);
  young.started();
  young.batch(batch(10, 10), start + 100ms);
  CHECK(young.failed(errc::unavailable, start + 110ms, 0.0) == 500ms);
  // One quick try for both kinds of failure.
  WatchResume listing = resumed(10);
  CHECK(listing.failed(errc::compacted, start, 0.99) == 0ms);
  CHECK(listing.failed(errc::unavailable, start, 0.0) == 500ms);
}

TEST_CASE("watch resume: refused for good reason, asked at the longest pace") {
  WatchResume resume(1000ms, 30000ms, 600s);
  CHECK(resume.failed(errc::permission_denied, start, 0) == 15s);
  CHECK(resume.failed(errc::authentication_failed, start, 1) == 30s);
  CHECK(resume.must_list());
}

TEST_CASE("watch resume: reconciling is due an interval after the list, jittered, while a watch runs") {
  const auto running = [](WatchResume& resume) {
    resume.started();
    resume.batch(batch(10, 10), start);
    return resume.reconcile_due();
  };
  WatchResume resume(1000ms, 30000ms, 600s);
  resume.listed("s", 10, start, 0.0);
  CHECK(resume.reconcile_due() == WatchResume::TimePoint::max());
  CHECK(running(resume) == start + 540s);
  CHECK(resume.store_id() == "s");
  CHECK(resume.through() == 10);
  resume.reconciled(start + 600s, 1.0);
  CHECK(resume.reconcile_due() == start + 1260s);
  WatchResume never(1000ms, 30000ms, 0s);
  never.listed("s", 10, start, 0.0);
  CHECK(running(never) == WatchResume::TimePoint::max());
}

TEST_CASE("watch resume: after a break reconciling is due soon, because servers lose events around one") {
  WatchResume resume = resumed(10);
  resume.failed(errc::unavailable, start + 5s, 0.0);
  CHECK(resume.reconcile_due() == WatchResume::TimePoint::max());
  resume.started();
  resume.batch(batch(10, 10), start + 5s);
  CHECK(resume.reconcile_due() == start + 35s);
  // Never later than it was due before.
  resume.failed(errc::unavailable, start + 30s, 1.0);
  resume.started();
  resume.batch(batch(10, 10), start + 30s);
  CHECK(resume.reconcile_due() == start + 35s);
  // A list is a comparison of its own.
  resume.failed(errc::compacted, start + 31s, 0.0);
  resume.listed("s", 20, start + 31s, 0.5);
  resume.started();
  resume.batch(batch(20, 20), start + 31s);
  CHECK(resume.reconcile_due() == start + 631s);
}

TEST_CASE(
    "watch resume: watches begin with what was delivered last, so that a compaction behind it is refused, "
    "not passed over") {
  WatchResume resume(1000ms, 30000ms, 600s);
  resume.listed("s", 10, start, 0);
  CHECK(resume.watch_from() == 10);
  resume.started();
  CHECK(resume.batch(batch(10, 9), start).kind ==
        Kind::Deliver);  // the first batch confirms the store's head
  CHECK(resume.batch(batch(12, 10, {10}), start).kind == Kind::Ignore);
  const WatchAction partly = resume.batch(batch(12, 12, {10, 11, 12}), start);
  CHECK(partly.kind == Kind::DeliverFrom);
  CHECK(partly.from == 11);
  resume.failed(errc::unavailable, start, 0);
  CHECK(resume.watch_from() == 12);
  resume.started();
  CHECK(resume.failed(errc::compacted, start, 0.5) > 0ms);
  CHECK(resume.must_list());
  WatchResume empty(1000ms, 30000ms, 600s);
  empty.listed("s", 0, start, 0);
  CHECK(empty.watch_from() == 1);
}
