// Following a range through whatever an etcd server may do. The input is a script of what happens: writes, answers in
// fragments, repeated and mixed up ones, progress, compactions, breaks, members that lag, restored and replaced stores. The
// store is a model beside it. Properties: each change is delivered once and in order, none is lost, nothing below the revision
// that was listed comes, a replaced store is noticed, the position only moves up between two lists, pauses stay in their
// bounds, and at the end the follower knows what the store holds.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "property.hpp"
#include "registry/policy/watch_assembly.hpp"
#include "registry/policy/watch_resume.hpp"

using namespace std::chrono_literals;
using registry::Batch;
using registry::Change;
using registry::errc;
using registry::WatchAction;

namespace {

using Table = std::map<std::string, std::string>;

void put_in(Table& table, const Change& change) {
  if (change.deleted) {
    table.erase(change.kv.key);
  } else {
    table[change.kv.key] = change.kv.value;
  }
}

/// The truth.
struct Server {
  std::string id = "store 0";
  std::int64_t head = 1, compacted = 0;
  int epoch = 0;                // another one: another history
  std::vector<Change> history;  // of the range; compactions leave it as it is
  Table table;                  // at the head
  unsigned values = 0;

  Table at(std::int64_t revision) const {
    Table then;
    for (const Change& change : history) {
      if (change.kv.mod_revision <= revision) put_in(then, change);
    }
    return then;
  }

  /// What happened from `first` to `last`.
  std::vector<Change> between(std::int64_t first, std::int64_t last) const {
    std::vector<Change> changes;
    for (const Change& change : history) {
      if (change.kv.mod_revision >= first && change.kv.mod_revision <= last) changes.push_back(change);
    }
    return changes;
  }

  /// One revision: up to three keys of the range, each at most once.
  void write(fuzz::Script& script) {
    const Table before = table;
    ++head;
    const unsigned first = script.below(5), count = 1 + script.below(3);
    for (unsigned i = 0; i < count; ++i) {
      Change change;
      change.kv.key = std::string(1, static_cast<char>('a' + (first + i) % 5));
      change.kv.mod_revision = head;
      change.deleted = before.contains(change.kv.key) && script.one_in(3);
      if (!change.deleted) change.kv.value = std::to_string(++values);
      put_in(table, change);
      history.push_back(std::move(change));
    }
  }

  void replace(std::string new_id, std::int64_t kept) {
    id = std::move(new_id);
    head = kept;
    compacted = std::min(compacted, kept);
    history = between(1, kept);
    table = at(kept);
    ++epoch;
  }
};

/// A follower as store/follow.hpp runs it, on a watch as etcd/watch_hub.hpp puts it together.
class Follower {
 public:
  static constexpr auto first = 100ms, longest = 3000ms, reconcile = std::chrono::milliseconds(600s);

  Server server;
  std::chrono::steady_clock::time_point now{};
  bool watching = false;

  std::int64_t through() const noexcept { return through_; }
  bool knows_all() const { return watching && through_ == server.head && table_ == server.table; }
  bool must_list() const noexcept { return resume_.must_list(); }

  void list(std::int64_t revision, double draw) {
    fuzz::check(!watching && revision >= server.compacted, "the script lists what there is");
    resume_.listed(server.id, revision, now, draw);
    fuzz::check(!resume_.must_list() && resume_.through() == revision, "a list says where one is");
    table_ = server.at(revision);
    through_ = revision;
    epoch_ = server.epoch;
    listed_ = true;
  }

  /// `shown`: how far the member is that answers.
  void watch(std::int64_t shown, double draw) {
    const std::int64_t from = resume_.watch_from();
    fuzz::check(from >= 1 && (from == through_ || through_ == 0), "watches begin at what was delivered last");
    resume_.started();
    if (from < server.compacted) return fail(errc::compacted, draw);
    assembly_.emplace(from);
    sent_ = from;
    deletions_lost_at_ = from == server.compacted ? from : 0;
    watching = true;
    Batch batch;
    batch.head = shown;
    batch.through = from - 1;
    feed(std::move(batch), draw);
  }

  /// Events from `from` to `last`, parts of them in fragments.
  void send(std::int64_t from, std::int64_t last, bool mixed, bool cut, fuzz::Script& script) {
    std::vector<Change> changes = server.between(from, last);
    std::erase_if(changes, [this](const Change& change) {
      return change.deleted && change.kv.mod_revision == deletions_lost_at_;
    });
    mixed_ = mixed && !changes.empty();
    if (mixed_) {
      const std::size_t few = std::min<std::size_t>(changes.size(), 250);
      std::rotate(changes.begin(), changes.begin() + script.below(static_cast<unsigned>(few)), changes.end());
    }
    auto at = changes.begin();
    while (watching && at != changes.end()) {
      const auto left = changes.end() - at;
      const bool whole = !script.one_in(3);
      const auto count = whole ? left : std::min<std::ptrdiff_t>(left, 1 + script.below(4));
      const bool fragment = count != left;
      if (cut && !fragment) return;  // the stream breaks before the last part
      std::vector<Change> part(at, at + count);
      at += count;
      const std::int64_t before = assembly_->next();
      std::optional<Batch> batch = assembly_->events(server.head, fragment, std::move(part));
      fuzz::check(!batch || !fragment, "a part is not delivered");
      fuzz::check(assembly_->next() >= before, "the bookmark of a watch never falls");
      if (fragment) fuzz::check(!assembly_->progress(server.head + 1), "no progress between parts");
      if (batch) feed(std::move(*batch), 0.5);
    }
    if (watching) sent_ = std::max(sent_, last + 1);
  }

  /// What a server may say that this watch has seen: nothing that is not sent yet.
  void progress(std::int64_t revision) {
    const std::vector<Change> missing = server.between(sent_, server.head);
    revision = std::min(revision, missing.empty() ? server.head : missing.front().kv.mod_revision - 1);
    std::optional<Batch> batch = assembly_->progress(revision);
    sent_ = std::max(sent_, revision + 1);
    if (batch) feed(std::move(*batch), 0.5);
  }

  std::int64_t sent() const noexcept { return sent_; }

  void fail(std::error_code code, double draw) {
    const bool had_to_list = resume_.must_list();
    if (running_ && now - since_ >= std::max(pause_, std::chrono::milliseconds(first))) may_be_quick_ = true;
    const auto pause = resume_.failed(code, now, draw);
    fuzz::check(pause >= 0ms && pause <= longest, "pauses stay in their bounds");
    if (pause < first / 2) {
      fuzz::check(std::exchange(may_be_quick_, false), "one quick try for each watch that held");
    }
    const bool lost = code == errc::compacted || code == errc::store_changed || code == errc::future_revision;
    fuzz::check(resume_.must_list() == (had_to_list || lost), "lists again exactly when history was lost");
    if (code == errc::permission_denied)
      fuzz::check(pause >= longest / 2, "nobody is asked in vain too often");
    pause_ = pause;
    now += pause;
    running_ = watching = false;
    assembly_.reset();
    listed_ = false;
    fuzz::check(resume_.reconcile_due() == registry::WatchResume::TimePoint::max(),
                "compared while watching");
  }

 private:
  void feed(Batch batch, double draw) {
    batch.store_id = server.id;
    const std::int64_t before = resume_.next();
    const WatchAction action = resume_.batch(batch, now);
    if (action.kind == WatchAction::Relist) {
      const bool other = server.epoch != epoch_, behind = batch.head < before - 1;
      const bool far = batch.head - (before - 1) > registry::WatchResume::max_replay;
      const bool right = action.reason == errc::store_changed ? other || behind : far && !listed_;
      fuzz::check(right, "lists again for a reason");
      return fail(action.reason, draw);
    }
    fuzz::check(server.epoch == epoch_, "a replaced store is noticed");
    if (!std::exchange(running_, true)) since_ = now;
    listed_ = false;
    fuzz::check(resume_.next() >= before, "the position never falls");
    fuzz::check(resume_.through() == resume_.next() - 1, "delivered through what is not next");
    fuzz::check(resume_.reconcile_due() <= now + reconcile * 2, "compared now and then");
    if (action.kind == WatchAction::DeliverFrom) {
      fuzz::check(action.from == before, "what was delivered is left out");
      std::erase_if(batch.changes,
                    [&](const Change& change) { return change.kv.mod_revision < action.from; });
      fuzz::check(!batch.changes.empty(), "something of it is news");
    }
    if (action.kind == WatchAction::Ignore) batch.changes.clear();
    apply(std::move(batch.changes), resume_.through());
  }

  void apply(std::vector<Change> changes, std::int64_t through) {
    const auto older = [](const Change& one, const Change& other) {
      return one.kv.mod_revision < other.kv.mod_revision;
    };
    fuzz::check(std::is_sorted(changes.begin(), changes.end(), older), "revision by revision");
    // Within a revision a mixed up answer is delivered as it came: its changes are all there, once.
    const auto by_place = [](const Change& one, const Change& other) {
      return std::tie(one.kv.mod_revision, one.kv.key) < std::tie(other.kv.mod_revision, other.kv.key);
    };
    std::vector<Change> wanted = server.between(through_ + 1, through);
    if (mixed_) std::sort(changes.begin(), changes.end(), by_place);
    if (mixed_) std::sort(wanted.begin(), wanted.end(), by_place);
    const auto same = [](const Change& one, const Change& other) {
      return one.deleted == other.deleted && one.kv == other.kv;
    };
    if (!changes.empty()) {
      fuzz::check(changes.front().kv.mod_revision > through_,
                  "nothing is delivered twice, or below the list");
      fuzz::check(changes.back().kv.mod_revision <= through, "nothing is delivered that does not count");
    }
    fuzz::check(changes.size() >= wanted.size(), "no change is lost");
    fuzz::check(std::equal(changes.begin(), changes.end(), wanted.begin(), wanted.end(), same),
                "each change once, in order");
    for (const Change& change : changes) put_in(table_, change);
    through_ = through;
  }

  registry::WatchResume resume_{first, longest, reconcile};
  std::optional<registry::WatchAssembly> assembly_;
  Table table_;
  std::int64_t through_ = 0;
  int epoch_ = 0;
  std::int64_t sent_ = 0;               // the first revision that the server has not sent on this watch
  std::int64_t deletions_lost_at_ = 0;  // etcd issues 18089, 19179: by a watch from the compacted revision on
  bool mixed_ = false;                  // the last answer
  bool listed_ = false;                 // no batch since the list
  bool running_ = false;
  bool may_be_quick_ = true;
  std::chrono::steady_clock::time_point since_{};
  std::chrono::milliseconds pause_{0};
};

/// One of `low` to `high`, mostly near the top.
std::int64_t revision_in(std::int64_t low, std::int64_t high, fuzz::Script& script) {
  return std::max(low, high - static_cast<std::int64_t>(script.one_in(3) ? script.below(16) : 0));
}

void act(Follower& follower, fuzz::Script& script) {
  Server& server = follower.server;
  const double draw = static_cast<double>(script.below(4)) / 4;
  if (!follower.watching) {
    if (follower.must_list()) {
      follower.list(revision_in(std::max<std::int64_t>(server.compacted, 1), server.head, script), draw);
    } else {
      follower.watch(revision_in(0, server.head, script), draw);
    }
    return;
  }
  const std::int64_t sent = follower.sent();
  switch (script.below(8)) {
    case 0:
    case 1: return follower.send(sent, server.head, false, false, script);
    case 2: return follower.send(sent, std::min(server.head, sent + script.below(4)), false, false, script);
    case 3:  // again, perhaps from before its beginning, and perhaps more
      return follower.send(std::max<std::int64_t>(1, sent - script.below(8)),
                           std::min(server.head, sent + script.below(4)), false, false, script);
    case 4: return follower.send(sent, server.head, true, false, script);
    case 5:
      follower.send(sent, server.head, false, true, script);
      if (follower.watching) follower.fail(errc::unavailable, draw);
      return;
    default: return follower.progress(std::max<std::int64_t>(0, server.head - script.below(8)));
  }
}

void happen(Follower& follower, fuzz::Script& script) {
  Server& server = follower.server;
  const double draw = static_cast<double>(script.below(4)) / 4;
  switch (script.below(8)) {
    case 0: server.head += 1 + script.below(4); return;  // other keys
    case 1: server.head += script.one_in(2) ? registry::WatchResume::max_replay + 1 : 1; return;
    case 2: {
      server.compacted = std::max(server.compacted, server.head - static_cast<std::int64_t>(script.below(8)));
      // A watch that is behind it is ended.
      if (follower.watching && follower.sent() < server.compacted) follower.fail(errc::compacted, draw);
      return;
    }
    case 3: follower.now += std::chrono::milliseconds(script.byte() * 40); return;
    case 4: {
      constexpr errc ends[] = {errc::unavailable, errc::no_leader, errc::permission_denied,
                               errc::protocol_error};
      if (follower.watching) follower.fail(ends[script.below(4)], draw);
      return;
    }
    case 5: server.replace("store " + std::to_string(server.epoch + 1), 1); break;
    case 6:
      // From a backup: noticed by its revision alone, so it must not grow until it was looked at.
      if (follower.watching && follower.through() > 2) {
        server.replace(server.id, follower.through() - 1);
        follower.fail(errc::unavailable, draw);
        follower.watch(server.head, draw);
        fuzz::check(follower.must_list(), "a restored store is listed");
      }
      return;
    default: return;
  }
  if (follower.watching) follower.fail(errc::unavailable, draw);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size > 1024) return -1;
  fuzz::Script script(data, size);
  Follower follower;
  while (!script.ended()) {
    const unsigned what = script.below(8);
    if (what < 3) {
      follower.server.write(script);
    } else if (what < 7) {
      act(follower, script);
    } else {
      happen(follower, script);
    }
  }
  // Left alone, it gets there: at the most a compaction, a list, a watch that finds itself far behind, and once more.
  for (int i = 0; i < 8 && !follower.knows_all(); ++i) {
    if (!follower.watching) {
      if (follower.must_list()) follower.list(follower.server.head, 0);
      follower.watch(follower.server.head, 0);
    }
    if (!follower.watching) continue;
    follower.send(follower.sent(), follower.server.head, false, false, script);
    if (follower.watching) follower.progress(follower.server.head);
  }
  fuzz::check(follower.knows_all(), "in the end the follower knows what the store holds");
  return 0;
}
