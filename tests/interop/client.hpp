// A gRPC client of another implementation, as a child process: `Client client(world.port());
// client.calls("user-service", 100)`. REGISTRY_INTEROP_CLIENT is its program; run.sh beside each client sets it.
//
// It is told, one line each, on stdin:
//   call <service> <count> [wait]   Eight calls are under way at a time, each with a deadline of 60 s; "wait": they wait for a
//                                   server. It says "begun" when the first are under way; in the end what became of them,
//                                   "served <count> <id>" and "failed <count> <code> <text>" lines, and "end".
//   close <service>                 Closes the service's channel; it says "end".
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "rig/fd.hpp"
#include "rig/process.hpp"

namespace interop {

/// What became of calls.
struct Tally {
  std::map<std::string, int> served;  // by the instance's id
  std::map<std::string, int> failed;  // by "<status code> <text>"
  int all = 0;

  int by(const std::string& id) const {
    const auto found = served.find(id);
    return found == served.end() ? 0 : found->second;
  }
  double share(const std::string& id) const { return static_cast<double>(by(id)) / all; }
};

class Client {
 public:
  /// A control plane on that port of this host.
  explicit Client(int port) {
    const char* program = std::getenv("REGISTRY_INTEROP_CLIENT");
    if (program == nullptr)
      throw std::runtime_error("REGISTRY_INTEROP_CLIENT names no program; see grpc-js/run.sh");
    ::signal(SIGPIPE, SIG_IGN);  // a client that has ended is an error of the next write
    rig::Fd its_in, its_out;
    pipe(its_in, in_);
    pipe(out_, its_out);
    // grpc-js wants the id and the locality.
    const std::string bootstrap = R"({"xds_servers":[{"server_uri":"127.0.0.1:)" + std::to_string(port) +
                                  R"(","channel_creds":[{"type":"insecure"}]}],)"
                                  R"("node":{"id":"interop","locality":{}}})";
    child_ = rig::Process({program}, {"GRPC_XDS_BOOTSTRAP_CONFIG=" + bootstrap}, its_in.get(), its_out.get(),
                          STDERR_FILENO);
  }

  /// Returns when the first calls are under way.
  void begin(const std::string& service, int count, bool wait = false) {
    say("call " + service + " " + std::to_string(count) + (wait ? " wait" : ""));
    if (const std::string line = read(patience); line != "begun") throw std::runtime_error("client: " + line);
  }
  /// Whether it says nothing for that long: no call that was begun has to end, but none of the last eight has.
  bool silent(std::chrono::milliseconds time) { return !read_line(time); }
  /// What became of the calls that were begun.
  Tally end() {
    Tally tally;
    for (;;) {
      const std::string line = read(patience);
      if (line == "end") return tally;
      std::istringstream words(line);
      std::string verb, rest;
      int count = 0;
      words >> verb >> count;
      std::getline(words >> std::ws, rest);
      if (!words || (verb != "failed" && verb != "served")) throw std::runtime_error("client: " + line);
      tally.all += count;
      (verb == "served" ? tally.served : tally.failed)[rest] += count;
    }
  }
  Tally calls(const std::string& service, int count) {
    begin(service, count);
    return end();
  }
  void close(const std::string& service) {
    say("close " + service);
    end();
  }

 private:
  static constexpr std::chrono::seconds patience{120};  // a bound against hanging

  static void pipe(rig::Fd& read, rig::Fd& write) {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::system_error(errno, std::generic_category(), "pipe2");
    read.reset(ends[0]);
    write.reset(ends[1]);
  }

  void say(const std::string& line) {
    const std::string bytes = line + "\n";
    if (::write(in_.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size()))
      throw std::runtime_error("the client does not listen any more");
  }

  std::string read(std::chrono::milliseconds time) {
    std::optional<std::string> line = read_line(time);
    if (!line) throw std::runtime_error("the client says nothing");
    return *line;
  }

  /// Empty when there is none within that time.
  std::optional<std::string> read_line(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    for (;;) {
      if (const auto at = unread_.find('\n'); at != std::string::npos) {
        std::string line = unread_.substr(0, at);
        unread_.erase(0, at + 1);
        return line;
      }
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(end - std::chrono::steady_clock::now());
      pollfd ready{out_.get(), POLLIN, 0};
      if (left.count() <= 0 || ::poll(&ready, 1, static_cast<int>(left.count())) == 0) return std::nullopt;
      char bytes[4096];
      const auto count = ::read(out_.get(), bytes, sizeof bytes);
      if (count == 0) throw std::runtime_error("the client has ended");
      if (count > 0) unread_.append(bytes, static_cast<std::size_t>(count));
    }
  }

  rig::Fd in_, out_;
  std::string unread_;
  rig::Process child_;
};

}  // namespace interop
