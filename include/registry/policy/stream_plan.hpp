// One stream for each instance of a service, decided without a clock: who is listed, and what became of the
// streams, goes in; which stream to open or to close, and when to look again, comes out.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "registry/model/instance.hpp"
#include "registry/policy/backoff.hpp"

namespace registry {

/// An instance as it is listed, and where a stream to it may go ("host:port", the preferred one first).
struct StreamPeer {
  std::shared_ptr<const ServiceInstance> instance;  ///< not null
  std::vector<std::string> targets;                 ///< "host:port", the preferred one first

  StreamPeer() {}
  /// An instance and where it may be reached.
  StreamPeer(std::shared_ptr<const ServiceInstance> listed, std::vector<std::string> addresses)
      : instance(std::move(listed)), targets(std::move(addresses)) {}
};

/// What to do now.
struct StreamAction {
  /// Which of two.
  enum Kind {
    Open,   ///< open stream number `stream` to `target`; report opened() or ended()
    Close,  ///< close that stream, or stop opening it; report ended() when that is done
  };
  Kind kind = Open;                                 ///< what to do
  std::uint64_t stream = 0;                         ///< its number
  std::shared_ptr<const ServiceInstance> instance;  ///< to which it goes
  std::string target;                               ///< "host:port"

  StreamAction() {}
  /// An action with these members.
  StreamAction(Kind what, std::uint64_t number, std::shared_ptr<const ServiceInstance> peer,
               std::string where)
      : kind(what), stream(number), instance(std::move(peer)), target(std::move(where)) {}
};

/// Which streams there should be. An instance that is up has one, to one of its targets. When it ends or cannot
/// be opened it is opened again after a pause that grows (Backoff), to the instance's next target if it was short
/// lived; one that lived longer than the last pause starts over with a short one. An instance that is written
/// anew while its pause runs is probably back: the pause is cut to the first step of the backoff.
///
/// Gone, disabled, or no longer at the stream's target: the stream is closed at once; an instance at new targets
/// is tried there without a pause. Draining: an open stream stays until it ends by itself, none is opened.
///
/// Each stream has a number of its own; reports about a stream that was given up before are ignored.
///
/// Thread safety: none of its own; keep it on one strand.
class StreamPlan {
 public:
  /// Of the clock that the caller reads.
  using TimePoint = std::chrono::steady_clock::time_point;
  /// What to do now, in this order.
  using Actions = std::vector<StreamAction>;

  /// Pauses of `first` to `max`; opening a stream may take `open_timeout`.
  StreamPlan(std::chrono::milliseconds first, std::chrono::milliseconds max,
             std::chrono::milliseconds open_timeout)
      : first_(std::max(first, std::chrono::milliseconds(1))), max_(max), open_timeout_(open_timeout) {}

  /// The instances there are now, all of them, ordered by id.
  Actions listed(std::vector<StreamPeer> list, TimePoint now) {
    Actions actions;
    if (closed_) return actions;
    auto known = peers_.begin();
    for (StreamPeer& fresh : list) {
      const std::string& id = fresh.instance->id;
      while (known != peers_.end() && known->first < id) {
        give_up(known->second, actions);
        known = peers_.erase(known);
      }
      if (known == peers_.end() || known->first != id) {
        known = peers_.emplace_hint(known, id, Peer(first_, max_));
      }
      update(known->second, std::move(fresh), now, actions);
      ++known;
    }
    while (known != peers_.end()) {
      give_up(known->second, actions);
      known = peers_.erase(known);
    }
    return actions;
  }

  /// The stream is open. False: it was given up meanwhile.
  bool opened(std::uint64_t stream, TimePoint now) {
    Peer* const peer = find(stream);
    if (peer == nullptr || peer->phase != Phase::Opening || peer->late) return false;
    peer->phase = Phase::Open;
    peer->since = now;
    return true;
  }

  /// The stream has ended, or could not be opened. `draw` is evenly distributed in [0, 1).
  void ended(std::uint64_t stream, TimePoint now, double draw) {
    Peer* const peer = find(stream);
    if (peer == nullptr) return;
    streams_.erase(stream);
    const bool lasted = peer->phase == Phase::Open && now - peer->since >= std::max(peer->last_pause, first_);
    if (lasted) {
      peer->backoff.reset();
    } else {
      ++peer->next_target;
    }
    peer->late = false;
    peer->since = now;
    if (peer->listed.instance->status() == InstanceStatus::Up) {
      peer->last_pause = peer->backoff.next(draw);
      peer->due = now + peer->last_pause;
      peer->phase = Phase::Waiting;
    } else {
      peer->phase = Phase::Idle;
    }
  }

  /// What the time has come for.
  Actions due(TimePoint now) {
    Actions actions;
    for (auto& [id, peer] : peers_) {
      if (peer.phase == Phase::Waiting && peer.due <= now) {
        open(peer, now, actions);
      } else if (peer.phase == Phase::Opening && !peer.late && peer.since + open_timeout_ <= now) {
        peer.late = true;  // counts as failed once it has let go
        actions.emplace_back(StreamAction::Close, peer.stream, peer.listed.instance, peer.target);
      }
    }
    return actions;
  }

  /// When to ask due() again; empty: not before something is reported.
  std::optional<TimePoint> wake_at() const {
    std::optional<TimePoint> first;
    for (const auto& [id, peer] : peers_) {
      std::optional<TimePoint> at;
      if (peer.phase == Phase::Waiting) at = peer.due;
      if (peer.phase == Phase::Opening && !peer.late) at = peer.since + open_timeout_;
      if (at && (!first || *at < *first)) first = at;
    }
    return first;
  }

  /// Closes everything, for good.
  Actions close() {
    Actions actions;
    closed_ = true;
    for (auto& [id, peer] : peers_) give_up(peer, actions);
    peers_.clear();
    return actions;
  }

 private:
  enum class Phase { Idle, Opening, Open, Waiting };

  struct Peer {
    Peer(std::chrono::milliseconds first, std::chrono::milliseconds max) : backoff(first, max) {}
    StreamPeer listed;
    Phase phase = Phase::Idle;
    std::uint64_t stream = 0;     // while opening and open
    std::string target;           // of the stream
    TimePoint since;              // of opening, of being open, of the end
    TimePoint due;                // while waiting
    bool late = false;            // opening took too long
    std::size_t next_target = 0;  // modulo their number
    std::chrono::milliseconds last_pause{0};
    Backoff backoff;
  };

  Peer* find(std::uint64_t stream) {
    const auto found = streams_.find(stream);
    return found == streams_.end() ? nullptr : &peers_.at(found->second);
  }

  void update(Peer& peer, StreamPeer fresh, TimePoint now, Actions& actions) {
    const bool has_stream = peer.phase == Phase::Opening || peer.phase == Phase::Open;
    const auto& targets = fresh.targets;
    const bool stays = std::find(targets.begin(), targets.end(), peer.target) != targets.end();
    const bool moved = has_stream ? !stays : fresh.targets != peer.listed.targets;
    const bool rewritten = fresh.instance != peer.listed.instance;
    const InstanceStatus status = fresh.instance->status();
    const bool unwanted = status == InstanceStatus::Disabled ||
                          (status == InstanceStatus::Draining && peer.phase != Phase::Open);
    if (moved || unwanted) {
      give_up(peer, actions);
      peer.backoff.reset();
      peer.next_target = 0;
    }
    peer.listed = std::move(fresh);
    if (peer.phase == Phase::Waiting && rewritten) peer.due = std::min(peer.due, peer.since + first_);
    if (peer.phase == Phase::Idle && status == InstanceStatus::Up && !peer.listed.targets.empty()) {
      open(peer, now, actions);
    }
  }

  void open(Peer& peer, TimePoint now, Actions& actions) {
    peer.phase = Phase::Opening;
    peer.since = now;
    peer.stream = ++last_stream_;
    peer.target = peer.listed.targets[peer.next_target % peer.listed.targets.size()];
    streams_.emplace(peer.stream, peer.listed.instance->id);
    actions.emplace_back(StreamAction::Open, peer.stream, peer.listed.instance, peer.target);
  }

  void give_up(Peer& peer, Actions& actions) {
    if (streams_.erase(peer.stream) != 0 && !peer.late) {
      actions.emplace_back(StreamAction::Close, peer.stream, peer.listed.instance, peer.target);
    }
    peer.late = false;
    peer.phase = Phase::Idle;
  }

  const std::chrono::milliseconds first_, max_, open_timeout_;
  std::map<std::string, Peer> peers_;
  std::map<std::uint64_t, std::string> streams_;  // those not given up, and whose they are
  std::uint64_t last_stream_ = 0;
  bool closed_ = false;
};

}  // namespace registry
