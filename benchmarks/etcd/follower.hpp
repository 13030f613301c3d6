// A process that follows the service and does nothing else, so that its CPU time is that of following: by the library, or by
// bare gRPC. It is this program once more, with `--follow` library, floor (blocking), callbacks, or handed (by callbacks, and
// each event handed to the thread of an executor).
#pragma once

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <grpcpp/client_context.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include "etcd/world.hpp"
#include "floor/etcd.hpp"
#include "registry/facade/registry.hpp"
#include "report.hpp"
#include "rig/process.hpp"

namespace bench {

/// What the process says on its stdout: once when it follows, and then behind each `step` events.
struct Word {
  std::int64_t time = 0;    // of Clock
  double cpu = 0;           // of this process so far, in ns
  std::int64_t events = 0;  // since it follows
  std::int64_t wrong = 0;   // that were not what they should be
};

/// What the process counts. Events are numbered from 1, by their instances' versions.
class Counted {
 public:
  Counted(std::int64_t step, std::int64_t total) : step_(step), total_(total) {}

  void ready() { say(); }
  /// False behind the last one.
  bool event() {
    ++word_.events;
    if (word_.events % step_ == 0) say();
    return word_.events < total_;
  }
  bool event(const registry::ServiceEvent& event) {
    const std::string& version = event.service.version;
    std::int64_t number = 0;
    std::from_chars(version.data(), version.data() + version.size(), number);
    if (number != word_.events + 1 || event.resynced || event.type != registry::EventType::Put) ++word_.wrong;
    return this->event();
  }

 private:
  void say() {
    word_.time = Clock::now().time_since_epoch().count();
    word_.cpu = process_cpu();
    if (::write(STDOUT_FILENO, &word_, sizeof word_) != sizeof word_)
      throw std::runtime_error("nobody listens");
  }

  const std::int64_t step_, total_;
  Word word_;
};

/// Ready once the instances that are there have come as events.
inline asio::awaitable<void> consume(registry::Generator<registry::ServiceEvent> events, std::size_t present,
                                     Counted& counted, asio::io_context& io) {
  for (std::size_t i = 0; i < present; ++i) co_await events.next();
  counted.ready();
  while (auto next = co_await events.next()) {
    if (!counted.event(*next)) break;
  }
  io.stop();
}

/// The process: `--follow`, `--endpoint`, `--present`, `--step`, `--total`.
inline void follow(const Arguments& arguments) {
  const std::string endpoint = arguments.text("--endpoint");
  Counted counted(static_cast<std::int64_t>(arguments.number("--step", 1)),
                  static_cast<std::int64_t>(arguments.number("--total", 1)));
  const std::string kind = arguments.text("--follow");
  const registry::KeyRange range = registry::KeyLayout().service_range(service);
  const auto ready = [&] { counted.ready(); };
  grpc::ClientContext context;
  const auto event = [&] {
    if (!counted.event()) context.TryCancel();
  };
  if (kind == "floor")
    return bare::watch(bare::connect(endpoint), context, range.begin, range.end, ready, event);
  if (kind == "callbacks")
    return bare::watch_by_callbacks(bare::connect(endpoint), context, range.begin, range.end, ready, event);
  if (kind == "handed") {
    asio::thread_pool consumer(1);
    bare::watch_by_callbacks(bare::connect(endpoint), context, range.begin, range.end, ready,
                             [&] { asio::post(consumer, event); });
    return consumer.join();
  }
  asio::io_context io(1);
  registry::etcd::Connector store(io.get_executor(), at(endpoint));
  registry::Registry reg(store);
  asio::co_spawn(io, consume(reg.watch(service), arguments.number("--present", 0), counted, io),
                 [](std::exception_ptr error) {
                   if (error) std::rethrow_exception(error);
                 });
  io.run();
}

/// The process as its parent sees it. Follows when it is made.
class Follower {
 public:
  Follower(const std::string& kind, const std::string& endpoint, std::size_t present, std::int64_t step,
           std::int64_t total) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
    words_ = ends[0];
    process_ = rig::Process(
        {"/proc/self/exe", "--follow", kind, "--endpoint", endpoint, "--present", std::to_string(present),
         "--step", std::to_string(step), "--total", std::to_string(total)},
        {}, STDIN_FILENO, ends[1], STDERR_FILENO);
    ::close(ends[1]);
    next();  // it follows
  }
  ~Follower() { ::close(words_); }
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  /// Its next word: throws if it does not come within 10 s, or says that something was wrong.
  Word next() {
    pollfd ready{words_, POLLIN, 0};
    Word word;
    if (::poll(&ready, 1, 10000) != 1) throw std::runtime_error("events were lost: no more came for 10 s");
    if (::read(words_, &word, sizeof word) != sizeof word)
      throw std::runtime_error("the follower ended early");
    if (word.wrong > 0) {
      throw std::runtime_error(std::to_string(word.wrong) + " of " + std::to_string(word.events) +
                               " events were repeated, lost, or out of order");
    }
    return word;
  }

 private:
  int words_ = -1;
  rig::Process process_;
};

}  // namespace bench
