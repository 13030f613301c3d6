// One thread polls all sockets of a gate and owns all of its state. A call is a task for that thread and
// waits for its end: no socket is ever closed while it is being polled, which would put the close off.
#include "gate.hpp"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <functional>
#include <future>
#include <list>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "gate_connection.hpp"
#include "net.hpp"
#include "quiet_thread.hpp"

namespace rig {

using namespace gate_detail;

namespace {

void no_delay(int fd) {
  const int yes = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
}

template <class Function>
void each_way(Way way, Function function) {
  if (way != Way::down) function(0);
  if (way != Way::up) function(1);
}

}  // namespace

class Gate::Loop {
 public:
  Loop() : wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), listener_(listen_on(port_.number())) {
    thread_ = quiet_thread([this] { work(); });
  }

  /// Runs it on the thread; what it throws is thrown here.
  template <class Function>
  auto call(Function function) {
    // Shared: we may return while the thread is still on its way out of the task.
    const auto task = std::make_shared<std::packaged_task<decltype(function())()>>(std::move(function));
    auto done = task->get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back([task] { (*task)(); });
    }
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto n = ::write(wake_.get(), &one, sizeof one);
    return done.get();
  }

  ~Loop() {
    call([this] { stop_ = true; });
    thread_.join();
  }

  std::string endpoint() const { return port_.endpoint(); }

  void aim(const std::string& target) {
    const auto colon = target.rfind(':');
    target_ = {};
    if (target.empty()) return;
    target_.sin_port = htons(static_cast<std::uint16_t>(std::stoi(target.substr(colon + 1))));
    if (::inet_pton(AF_INET, target.substr(0, colon).c_str(), &target_.sin_addr) != 1)
      throw std::invalid_argument("not an IPv4 endpoint: " + target);
    target_.sin_family = AF_INET;
  }

  void pass() {
    for (auto& mode : mode_) mode = Mode::pass;
    for (auto& d : delay_) d = {};
    cut_after_.reset();
    for (auto& c : connections_) {
      for (auto& f : c.flow) f.budget.reset();
      if (!c.draining && (c.flow[0].lost || c.flow[1].lost)) reset(c);
    }
    listen();
  }

  void cut() {
    for (auto& c : connections_) reset(c);
    connections_.clear();
  }

  void close() {
    for (auto& c : connections_) finish(c);
  }

  void refuse() {
    listener_.reset();
    cut();
  }

  void listen() {
    if (!listener_) listener_ = listen_on(port_.number());
  }

  void set_mode(Mode mode, Way way) {
    each_way(way, [&](int w) {
      mode_[w] = mode;
      if (mode != Mode::swallow) return;
      for (auto& c : connections_)
        if (!c.draining) c.flow[w].drop_queue();
    });
  }

  void set_delay(std::chrono::milliseconds time, Way way) {
    each_way(way, [&](int w) { delay_[w] = time; });
  }

  void set_cut_after(std::uint64_t count, Way way, bool once) {
    cut_after_ = CutAfter{count, way, once};
    for (auto& c : connections_) arm(c);
  }

  std::size_t connections() const {
    const auto counts = [](const Connection& c) { return c.client && !c.draining && !c.flow[0].ended; };
    return static_cast<std::size_t>(std::count_if(connections_.begin(), connections_.end(), counts));
  }

  std::uint64_t accepted = 0, forwarded[2] = {0, 0};

 private:
  struct CutAfter {
    std::uint64_t bytes;
    Way way;
    bool once;
  };

  void work() {
    for (;;) {
      accept_new();  // first: who has connected before a call is there for it
      run_tasks();
      if (stop_) break;
      // Twice: what one way does (a cut, an end) may matter for what was looked at before.
      for (int round = 0; round < 2; ++round)
        for (auto& c : connections_) step(c);
      connections_.remove_if([](const Connection& c) { return !c.client && !c.server; });
      wait();
    }
    cut();
  }

  void run_tasks() {
    std::uint64_t count;
    [[maybe_unused]] const auto n = ::read(wake_.get(), &count, sizeof count);
    std::vector<std::function<void()>> tasks;
    {
      const std::lock_guard lock(mutex_);
      tasks.swap(tasks_);
    }
    for (auto& task : tasks) task();
  }

  void accept_new() {
    while (listener_) {
      const int fd = ::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
      if (fd < 0) return;
      no_delay(fd);
      ++accepted;
      auto& c = connections_.emplace_back();
      c.client = Fd(fd);
      arm(c);
    }
  }

  void arm(Connection& c) {
    for (auto& f : c.flow) f.budget.reset();
    if (cut_after_) each_way(cut_after_->way, [&](int w) { c.flow[w].budget = cut_after_->bytes; });
  }

  void connect(Connection& c) {
    c.server = Fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    no_delay(c.server.get());
    const int result = ::connect(c.server.get(), reinterpret_cast<const sockaddr*>(&target_), sizeof target_);
    if (result == 0) return;
    if (errno != EINPROGRESS) return reset(c);
    c.connecting = true;
  }

  void finish_connect(Connection& c) {
    pollfd one{c.server.get(), POLLOUT, 0};
    if (::poll(&one, 1, 0) <= 0) return;
    int error = 0;
    socklen_t size = sizeof error;
    ::getsockopt(c.server.get(), SOL_SOCKET, SO_ERROR, &error, &size);
    c.connecting = false;
    if (error) reset(c);
  }

  bool open(const Connection& c) const { return c.client && !c.draining; }

  void step(Connection& c) {
    if (c.draining) return drain(c);
    if (!c.client) return;
    if (!c.server && (mode_[0] == Mode::pass || mode_[1] == Mode::pass)) connect(c);
    if (c.connecting) finish_connect(c);
    for (int way = 0; way < 2; ++way) {
      if (open(c)) take(c, way);
      if (open(c)) give(c, way);
    }
    if (open(c) && c.flow[0].told && c.flow[1].told) {
      c.client.reset();
      c.server.reset();
    }
  }

  bool wants_to_take(const Connection& c, int way) const {
    const auto& f = c.flow[way];
    const bool room = f.queued < (delay_[way].count() ? max_delayed : max_queued);
    return c.source(way) >= 0 && !(way == 1 && c.connecting) && !f.ended && mode_[way] != Mode::hold && room;
  }

  void take(Connection& c, int way) {
    auto& f = c.flow[way];
    const auto now = Clock::now();
    while (wants_to_take(c, way)) {
      char buffer[65536];
      const auto n = ::recv(c.source(way), buffer, sizeof buffer, 0);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (mode_[way] == Mode::swallow) {
        f.lost = true;
        if (n <= 0) f.ended = true;
      } else if (n < 0) {
        // A reset goes through as one, unless the other way is a black hole or is held: then nobody may
        // notice.
        if (mode_[1 - way] == Mode::pass) return reset(c);
        f.ended = f.lost = true;
        f.drop_queue();
      } else if (n == 0) {
        f.ended = true;
      } else {
        f.queue.push_back({now + delay_[way], std::string(buffer, static_cast<std::size_t>(n))});
        f.queued += static_cast<std::size_t>(n);
      }
    }
  }

  /// Something may be written to the sink of this way now.
  bool ready_to_give(const Connection& c, int way) const {
    const auto& f = c.flow[way];
    return mode_[way] == Mode::pass && c.sink(way) >= 0 && !(way == 0 && c.connecting) && !f.queue.empty() &&
           f.queue.front().due <= Clock::now();
  }

  void give(Connection& c, int way) {
    auto& f = c.flow[way];
    while (ready_to_give(c, way)) {
      auto& front = f.queue.front().bytes;
      if (f.budget && *f.budget == 0) return fire(c);
      const auto size = f.budget ? std::min<std::uint64_t>(front.size(), *f.budget) : front.size();
      const auto n = ::send(c.sink(way), front.data(), size, MSG_NOSIGNAL);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0 && errno == EAGAIN) return;
      if (n < 0) {
        if (mode_[1 - way] == Mode::pass) return reset(c);
        f.lost = true;
        return f.drop_queue();
      }
      const auto sent = static_cast<std::size_t>(n);
      forwarded[way] += sent;
      f.queued -= sent;
      if (sent == front.size())
        f.queue.pop_front();
      else
        front.erase(0, sent);
      if (f.budget && (*f.budget -= sent) == 0) return fire(c);
    }
    if (f.ended && !f.told && !f.lost && f.queue.empty() && mode_[way] == Mode::pass && c.sink(way) >= 0 &&
        !(way == 0 && c.connecting)) {
      ::shutdown(c.sink(way), SHUT_WR);
      f.told = true;
    }
  }

  void fire(Connection& c) {
    finish(c);
    if (!cut_after_ || !cut_after_->once) return;
    cut_after_.reset();
    for (auto& other : connections_) arm(other);
  }

  /// Ends both streams and waits a little for the peers to do so: to close a socket with unread bytes is a
  /// reset, and a reset takes away what the peer has not read yet.
  void finish(Connection& c) {
    if (c.draining) return;
    c.draining = Clock::now() + drain_time;
    if (c.client) ::shutdown(c.client.get(), SHUT_WR);
    if (c.connecting) c.server.reset();
    if (c.server) ::shutdown(c.server.get(), SHUT_WR);
    for (auto& f : c.flow) f.drop_queue();
  }

  void drain(Connection& c) {
    for (Fd* fd : {&c.client, &c.server}) {
      char buffer[65536];
      while (*fd) {
        const auto n = ::recv(fd->get(), buffer, sizeof buffer, 0);
        if (n > 0 || (n < 0 && errno == EINTR)) continue;
        if (n < 0 && errno == EAGAIN) break;
        fd->reset();
      }
    }
    if (*c.draining <= Clock::now()) reset(c);
  }

  void wait() {
    std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}};
    if (listener_) fds.push_back({listener_.get(), POLLIN, 0});
    std::optional<Clock::time_point> next;
    const auto earlier = [&](Clock::time_point t) { next = next ? std::min(*next, t) : t; };
    for (const auto& c : connections_) {
      short events[2] = {0, 0};  // client, server
      if (c.draining) {
        earlier(*c.draining);
        events[0] = events[1] = POLLIN;
      } else {
        if (c.connecting) events[1] |= POLLOUT;
        for (int way = 0; way < 2; ++way) {
          if (wants_to_take(c, way)) events[way] |= POLLIN;
          if (ready_to_give(c, way))
            events[1 - way] |= POLLOUT;
          else if (mode_[way] == Mode::pass && !c.connecting && !c.flow[way].queue.empty())
            earlier(c.flow[way].queue.front().due);
        }
      }
      // Nothing wanted, not polled: a hang-up is reported whether asked for or not, again and again.
      if (c.client && events[0]) fds.push_back({c.client.get(), events[0], 0});
      if (c.server && events[1]) fds.push_back({c.server.get(), events[1], 0});
    }
    int timeout = -1;
    if (next) {
      const auto ms = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count();
      timeout = static_cast<int>(std::max<std::int64_t>(ms, 0));
    }
    ::poll(fds.data(), fds.size(), timeout);
  }

  Port port_;
  Fd wake_, listener_;
  sockaddr_in target_{};
  Mode mode_[2] = {Mode::pass, Mode::pass};
  std::chrono::milliseconds delay_[2] = {};
  std::optional<CutAfter> cut_after_;
  std::list<Connection> connections_;
  bool stop_ = false;

  std::mutex mutex_;  // of the tasks, all else is the thread's
  std::vector<std::function<void()>> tasks_;
  std::thread thread_;
};

Gate::Gate(const std::string& target) : loop_(std::make_unique<Loop>()) { aim(target); }
Gate::~Gate() = default;
Gate::Gate(Gate&&) noexcept = default;
Gate& Gate::operator=(Gate&&) noexcept = default;

std::string Gate::endpoint() const { return loop_->endpoint(); }
void Gate::aim(const std::string& target) {
  loop_->call([&] { loop_->aim(target); });
}
void Gate::pass() {
  loop_->call([&] { loop_->pass(); });
}
void Gate::cut() {
  loop_->call([&] { loop_->cut(); });
}
void Gate::close() {
  loop_->call([&] { loop_->close(); });
}
void Gate::refuse() {
  loop_->call([&] { loop_->refuse(); });
}
void Gate::accept() {
  loop_->call([&] { loop_->listen(); });
}
void Gate::swallow(Way way) {
  loop_->call([&] { loop_->set_mode(Mode::swallow, way); });
}
void Gate::hold(Way way) {
  loop_->call([&] { loop_->set_mode(Mode::hold, way); });
}
void Gate::delay(std::chrono::milliseconds time, Way way) {
  loop_->call([&] { loop_->set_delay(time, way); });
}
void Gate::cut_after(std::size_t bytes, Way way, bool once) {
  loop_->call([&] { loop_->set_cut_after(bytes, way, once); });
}
std::size_t Gate::connections() const {
  return loop_->call([&] { return loop_->connections(); });
}
std::uint64_t Gate::accepted_total() const {
  return loop_->call([&] { return loop_->accepted; });
}
std::uint64_t Gate::bytes_up() const {
  return loop_->call([&] { return loop_->forwarded[0]; });
}
std::uint64_t Gate::bytes_down() const {
  return loop_->call([&] { return loop_->forwarded[1]; });
}

}  // namespace rig
