// Following a range of keys, decided without I/O: when to list, from where to watch, which changes are news,
// what a break means and how long to pause. The rules come from what etcd servers do (and get wrong).
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"
#include "registry/policy/backoff.hpp"

namespace registry {

/// What to do with a batch of a watch.
struct WatchAction {
  /// Which of four.
  enum Kind {
    Deliver,      ///< all of it is news (an empty batch: the store confirms that nothing changed)
    DeliverFrom,  ///< only changes at revision `from` and later; the others were delivered before
    Ignore,       ///< nothing of it is news
    Relist,       ///< what was missed cannot be told from here: end this watch, list again
  };
  Kind kind = Ignore;     ///< what to do
  std::int64_t from = 0;  ///< for DeliverFrom: the first revision that is news
  errc reason =
      errc::compacted;  ///< of a Relist: compacted (also: too far behind to replay) or store_changed

  WatchAction() {}
};

/// Lists at revision R, then watches from R + 1; `next()` only moves up until the next list.
///
/// Thread safety: none of its own; keep it on one strand.
class WatchResume {
 public:
  /// Of the clock that the caller reads.
  using TimePoint = std::chrono::steady_clock::time_point;

  /// How far behind a resumed watch may be. etcd replays history at no more than 10,000 revisions a second
  /// (1,000 each 100 ms), of all keys: beyond two seconds of that a list is faster.
  static constexpr std::int64_t max_replay = 20'000;

  /// Backs off from `first` to `max`, and compares what is known with the store every `reconcile` (zero:
  /// never).
  WatchResume(std::chrono::milliseconds first, std::chrono::milliseconds max,
              std::chrono::milliseconds reconcile)
      : backoff_(first, max), first_(first), max_(max), interval_(reconcile) {}

  /// Whether a list is due before the next watch.
  bool must_list() const noexcept { return !listed_; }

  /// The first revision that is news.
  std::int64_t next() const noexcept { return next_; }

  /// The revision to watch from: the last one that was delivered, once more. A watch that begins exactly at a compaction is
  /// legal, but some servers lose what was deleted there (etcd issues 18089, 19179); begun one earlier it is refused,
  /// and the list shows what was deleted. Never 0, which would lose events between two watches.
  std::int64_t watch_from() const noexcept { return std::max<std::int64_t>(next_ - 1, 1); }

  /// A list was read, all of it at `revision`.
  void listed(std::string_view store_id, std::int64_t revision, TimePoint now, double draw) {
    store_id_ = store_id;
    next_ = revision + 1;
    listed_ = just_listed_ = true;
    reconciled(now, draw);
  }

  /// A watch was started at watch_from(): the next batch is its first.
  void started() noexcept {
    first_batch_ = true;
    running_ = false;
  }

  /// What to do with a batch that came at `now`.
  WatchAction batch(const Batch& batch, TimePoint now) {
    WatchAction action;
    if (batch.store_id != store_id_) return relist(errc::store_changed);
    const bool first = std::exchange(first_batch_, false);
    if (first) {
      // A store that is behind what it has shown was restored or wiped, perhaps between the list and this
      // watch: a watch from its future would wait in silence. A replica that only lags answers the new list
      // with what it has caught up to. Being far ahead right behind a list means that the list took long;
      // another would not be faster.
      if (batch.head < next_ - 1) return relist(errc::store_changed);
      if (!just_listed_ && batch.head - (next_ - 1) > max_replay) return relist(errc::compacted);
      // Some servers lose events around a break, a compaction above all (etcd issues 17529, 18089, 19179): what is
      // known is compared soon after one.
      if (!just_listed_) due_ = std::min(due_, now + part(interval_, 0.05, 0.1, draw_));
      just_listed_ = false;
      running_ = true;
      since_ = now;
    }
    action.from = next_;
    const std::int64_t last = batch.changes.empty() ? batch.through : batch.changes.back().kv.mod_revision;
    if (batch.changes.empty()) {
      action.kind = !first && batch.through + 1 < next_ ? WatchAction::Ignore : WatchAction::Deliver;
    } else if (batch.changes.front().kv.mod_revision >= next_) {
      action.kind = WatchAction::Deliver;
    } else if (last >= next_) {
      action.kind = WatchAction::DeliverFrom;
    }
    next_ = std::max({next_, batch.through + 1, last + 1});
    return action;
  }

  /// The list or the watch failed. Returns the pause before the next try; zero: at once. The first break of
  /// what went well is answered quickly: a list is read at once, a watch resumed within a tenth of the first
  /// backoff step (not all clients of a server that restarts in the same moment).
  std::chrono::milliseconds failed(std::error_code code, TimePoint now, double draw) {
    // Only a watch that held longer than the pause before it clears the record: a server that accepts and
    // breaks at once, or compacts at once, is asked less and less often.
    if (running_ && now - since_ >= std::max(pause_, first_)) {
      backoff_.reset();
      quick_ = true;
    }
    running_ = false;
    draw_ = draw;
    const bool lost_history =
        code == errc::compacted || code == errc::store_changed || code == errc::future_revision;
    if (lost_history) listed_ = false;
    // Somebody must act before these change: do not fill the server's log meanwhile.
    if (code == errc::authentication_failed || code == errc::permission_denied)
      return pause_ = std::max(backoff_.next(draw), part(max_, 0.5, 1.0, draw));
    if (std::exchange(quick_, false)) return pause_ = part(first_, 0.0, lost_history ? 0.0 : 0.1, draw);
    return pause_ = backoff_.next(draw);
  }

  /// When to compare what is known with the store while a watch runs: some servers lose events without a word. Never:
  /// the far future.
  TimePoint reconcile_due() const noexcept {
    return running_ && interval_.count() > 0 ? due_ : TimePoint::max();
  }
  /// The store that was listed.
  const std::string& store_id() const noexcept { return store_id_; }
  /// The revision that everything was delivered through.
  std::int64_t through() const noexcept { return next_ - 1; }

  /// A comparison was made or given up; the next one is due an interval later, jittered by a tenth.
  void reconciled(TimePoint now, double draw) { due_ = now + part(interval_, 0.9, 1.1, draw); }

 private:
  /// Between `low` and `high` times `whole`, as `draw` says.
  static std::chrono::milliseconds part(std::chrono::milliseconds whole, double low, double high,
                                        double draw) {
    const double share = low + (high - low) * std::clamp(draw, 0.0, 1.0);
    return std::chrono::milliseconds(static_cast<std::int64_t>(static_cast<double>(whole.count()) * share));
  }

  static WatchAction relist(errc reason) {
    WatchAction action;
    action.kind = WatchAction::Relist;
    action.reason = reason;
    return action;
  }

  Backoff backoff_;
  std::chrono::milliseconds first_, max_, interval_;
  std::chrono::milliseconds pause_{0};
  std::string store_id_;
  std::int64_t next_ = 1;
  bool listed_ = false;
  bool just_listed_ = false;  // no batch since the list
  bool first_batch_ = false;
  bool running_ = false;  // a watch delivers since `since_`
  double draw_ = 0;       // of the last failure
  bool quick_ = true;     // one try without a backoff is allowed
  TimePoint since_, due_;
};

}  // namespace registry
