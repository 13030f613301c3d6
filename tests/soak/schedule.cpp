// Draws faults one after the other, and gives each a target that is free at that time.
#include "soak/schedule.hpp"

#include <algorithm>
#include <random>

namespace soak {

using namespace std::chrono_literals;
using std::chrono::milliseconds;

const char* name_of(FaultKind kind) {
  switch (kind) {
    case FaultKind::cut: return "cut";
    case FaultKind::cut_after: return "cut_after";
    case FaultKind::swallow: return "swallow";
    case FaultKind::hold: return "hold";
    case FaultKind::delay: return "delay";
    case FaultKind::refuse: return "refuse";
    case FaultKind::isolate: return "isolate";
    case FaultKind::pause: return "pause";
    case FaultKind::kill: return "kill";
    case FaultKind::terminate: return "terminate";
    case FaultKind::move_leader: return "move_leader";
    case FaultKind::compact: return "compact";
    case FaultKind::expire_tokens: return "expire_tokens";
    case FaultKind::revoke_lease: return "revoke_lease";
    case FaultKind::delete_key: return "delete_key";
  }
  return "?";
}

namespace {

constexpr const char* ways[] = {"up", "down", "both"};

bool at_gate(FaultKind kind) { return kind <= FaultKind::refuse; }
bool at_member(FaultKind kind) {
  return kind == FaultKind::pause || kind == FaultKind::kill || kind == FaultKind::terminate;
}

struct Weight {
  FaultKind kind;
  unsigned share;
};
constexpr Weight weights[] = {
    {FaultKind::cut, 16},          {FaultKind::cut_after, 8},    {FaultKind::swallow, 8},
    {FaultKind::hold, 6},          {FaultKind::delay, 6},        {FaultKind::refuse, 6},
    {FaultKind::isolate, 6},       {FaultKind::pause, 5},        {FaultKind::kill, 5},
    {FaultKind::terminate, 2},     {FaultKind::move_leader, 5},  {FaultKind::compact, 14},
    {FaultKind::expire_tokens, 4}, {FaultKind::revoke_lease, 5}, {FaultKind::delete_key, 6},
};

class Draws {
 public:
  explicit Draws(std::uint64_t seed) : engine_(seed) {}
  /// [low, high], the same on every platform.
  std::uint64_t between(std::uint64_t low, std::uint64_t high) { return low + engine_() % (high - low + 1); }
  milliseconds time(milliseconds low, milliseconds high) {
    return milliseconds(
        between(static_cast<std::uint64_t>(low.count()), static_cast<std::uint64_t>(high.count())));
  }
  FaultKind kind() {
    unsigned total = 0;
    for (const auto& each : weights) total += each.share;
    auto left = between(0, total - 1);
    for (const auto& each : weights) {
      if (left < each.share) return each.kind;
      left -= each.share;
    }
    return FaultKind::cut;
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace

std::string Fault::text() const {
  std::string all = name_of(kind);
  if (at_gate(kind)) {
    all += " client " + std::to_string(client) + " member " + std::to_string(member);
    if (kind != FaultKind::cut && kind != FaultKind::refuse) all += std::string(" ") + ways[way];
  } else if (kind == FaultKind::isolate) {
    all += " client " + std::to_string(client) + (way == 0 ? " refusing" : " swallowing");
  } else if (at_member(kind) || kind == FaultKind::move_leader) {
    all += " member " + std::to_string(member);
  }
  if (kind == FaultKind::cut_after) all += " " + std::to_string(bytes) + " bytes";
  if (lasts.count() > 0) all += " for " + std::to_string(lasts.count()) + " ms";
  return all;
}

Schedule make_schedule(std::uint64_t seed, milliseconds length, std::size_t members, std::size_t clients) {
  Draws draws(seed);
  Schedule schedule;
  std::vector<milliseconds> member_busy(members, 0ms), gate_busy(members * clients, 0ms);
  milliseconds quorum_lost_until{0};
  for (milliseconds at = draws.time(500ms, 1500ms); at < length; at += draws.time(100ms, 1500ms)) {
    Fault fault;
    fault.at = at;
    fault.kind = draws.kind();
    fault.client = draws.between(0, clients - 1);
    fault.member = draws.between(0, members - 1);
    fault.way = static_cast<int>(draws.between(0, 2));
    fault.bytes = draws.between(0, 8000);
    fault.draw = draws.between(0, ~std::uint64_t(0) - 1);
    // Mostly short, sometimes longer than pings, request timeouts and TTLs.
    const bool long_one = draws.between(0, 5) == 0;
    const milliseconds lasts = long_one ? draws.time(5s, 15s) : draws.time(50ms, 3s);
    if (at_gate(fault.kind)) {
      auto& busy = gate_busy[fault.client * members + fault.member];
      if (busy > at) continue;
      if (fault.kind != FaultKind::cut) fault.lasts = lasts;
      fault.lasts = std::min(fault.lasts, length - at);
      busy = at + fault.lasts;
    } else if (fault.kind == FaultKind::isolate) {
      const auto first = gate_busy.begin() + static_cast<std::ptrdiff_t>(fault.client * members);
      const auto last = first + static_cast<std::ptrdiff_t>(members);
      if (std::any_of(first, last, [&](auto until) { return until > at; })) continue;
      fault.lasts = std::min(lasts, length - at);
      std::fill(first, last, at + fault.lasts);
    } else if (at_member(fault.kind)) {
      if (member_busy[fault.member] > at) continue;
      const auto away =
          std::count_if(member_busy.begin(), member_busy.end(), [&](auto until) { return until > at; });
      const bool no_quorum = (static_cast<std::size_t>(away) + 1) * 2 >= members + 1;
      // Without a quorum for a short time only, and not often.
      if (no_quorum && (quorum_lost_until + 10s > at || (members > 1 && draws.between(0, 2) != 0))) continue;
      fault.lasts = std::min(no_quorum ? std::min(lasts, 7000ms) : lasts, length - at);
      member_busy[fault.member] = at + fault.lasts;
      if (no_quorum) quorum_lost_until = at + fault.lasts;
    }
    schedule.faults.push_back(fault);
  }
  return schedule;
}

}  // namespace soak
