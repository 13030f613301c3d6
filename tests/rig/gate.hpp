// A TCP proxy in front of a server, for breaking the way to it: `Gate gate(etcd.endpoint());`, connect to
// `gate.endpoint()`. Calls are safe from any thread and synchronous: when one returns, its effect holds.
// `pass()` takes everything back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace rig {

enum class Way { up, down, both };  // up: from client to server

class Gate {
 public:
  /// Without a target every connection is closed at once, until `aim()`.
  explicit Gate(const std::string& target = {});
  ~Gate();
  Gate(Gate&&) noexcept;
  Gate& operator=(Gate&&) noexcept;

  /// "127.0.0.1:port", for as long as the gate lives.
  std::string endpoint() const;
  /// Where connections made from now on go.
  void aim(const std::string& target);

  /// Normal again: listens, forwards, no delay, no cut to come. Delivers what was held; resets connections
  /// that lost bytes.
  void pass();
  /// Ends all connections, with a reset on both sides; new ones are welcome.
  void cut();
  /// The same, but by a proper end of stream after what was already forwarded.
  void close();
  /// Stops listening (connects are refused) and cuts; `accept()` or `pass()` undo.
  void refuse();
  void accept();
  /// A black hole: connections stay open, new ones are accepted, what they send (also the end of the stream)
  /// vanishes.
  void swallow(Way way = Way::both);
  /// Keeps bytes back until `pass()`: they stay in the socket buffers, so a sender of much of them blocks
  /// after a while, and a peer that goes away meanwhile is not noticed.
  void hold(Way way = Way::both);
  /// Every byte that comes in from now on goes out this much later. Zero: no delay.
  void delay(std::chrono::milliseconds time, Way way = Way::both);
  /// Forwards n more bytes one way on each connection that is or comes, exactly, then closes that connection
  /// (an end of stream, so that the n bytes arrive); zero: closes it at the first byte, which is not
  /// forwarded. Once: only the first that gets there.
  void cut_after(std::size_t bytes, Way way = Way::down, bool once = true);

  /// Connections whose client is still there.
  std::size_t connections() const;
  std::uint64_t accepted_total() const;
  /// Bytes that were forwarded.
  std::uint64_t bytes_up() const;
  std::uint64_t bytes_down() const;

 private:
  class Loop;
  std::unique_ptr<Loop> loop_;
};

}  // namespace rig
