// Which fault comes when, for how long and to whom: all of it follows from a seed.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace soak {

enum class FaultKind {
  // Of the way between a client and a member.
  cut,
  cut_after,
  swallow,
  hold,
  delay,
  refuse,
  isolate,  // of all ways of a client
  // Of a member.
  pause,
  kill,
  terminate,
  // Of the cluster.
  move_leader,
  compact,
  expire_tokens,
  // Of the data, by somebody else.
  revoke_lease,
  delete_key,
};

const char* name_of(FaultKind kind);

struct Fault {
  std::chrono::milliseconds at{0}, lasts{0};
  FaultKind kind = FaultKind::cut;
  std::size_t client = 0, member = 0;
  int way = 2;             // 0: up, 1: down, 2: both
  std::size_t bytes = 0;   // of cut_after
  std::uint64_t draw = 0;  // chooses a key, a lease, how far to compact

  std::string text() const;
};

struct Schedule {
  std::vector<Fault> faults;  // by time
};

/// At most one member is away at a time, but for some seconds now and then two, which leaves no quorum; a
/// client is cut off from all members for 15 s at most. Nothing lasts beyond `length`.
Schedule make_schedule(std::uint64_t seed, std::chrono::milliseconds length, std::size_t members,
                       std::size_t clients);

}  // namespace soak
