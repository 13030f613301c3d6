// What a gate keeps of a connection through it.
#pragma once

#include <sys/socket.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <string>

#include "fd.hpp"

namespace rig::gate_detail {

using Clock = std::chrono::steady_clock;
enum class Mode { pass, swallow, hold };

inline constexpr std::size_t max_queued = 1 << 20;           // per flow, when nothing is delayed
inline constexpr std::size_t max_delayed = 64 << 20;         // and when it is
inline constexpr auto drain_time = std::chrono::seconds(2);  // for the peer to close, too, before we reset

struct Chunk {
  Clock::time_point due;
  std::string bytes;
};

/// One way through a connection.
struct Flow {
  std::deque<Chunk> queue;
  std::size_t queued = 0;
  bool ended = false;                   // no more from the source
  bool told = false;                    // and the sink knows
  bool lost = false;                    // something was swallowed: this stream can never go on
  std::optional<std::uint64_t> budget;  // bytes to go until the cut

  void drop_queue() {
    lost = lost || !queue.empty();
    queue.clear();
    queued = 0;
  }
};

struct Connection {
  Fd client, server;
  bool connecting = false;
  std::optional<Clock::time_point> draining;  // ended by us; until then we wait for the peers
  Flow flow[2];                               // up, down

  int source(int way) const { return way == 0 ? client.get() : server.get(); }
  int sink(int way) const { return way == 0 ? server.get() : client.get(); }
};

inline void reset(Fd& fd) {
  if (!fd) return;
  const linger now{1, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
  fd.reset();
}

inline void reset(Connection& c) {
  reset(c.client);
  reset(c.server);
}

}  // namespace rig::gate_detail
