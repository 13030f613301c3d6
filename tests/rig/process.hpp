// Child processes of a test. They die with the test process, inherit none of its file descriptors, and see
// none of its ETCD* variables.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

namespace rig {

/// What a finished command left: 128 + signal as code for one that a signal ended.
struct Output {
  int code = -1;
  std::string out, err;
  bool timed_out = false;
  bool ok() const noexcept { return code == 0; }
};

struct RunOptions {
  std::string input = {};                     // its stdin
  std::vector<std::string> env = {};          // "NAME=value", added to ours
  std::chrono::milliseconds deadline{30000};  // then it is killed
};

/// Runs a command to its end. Throws when the program does not exist.
Output run(std::vector<std::string> argv, RunOptions options = {});

/// The path of a program: as is when it has a '/', else from PATH, else from /usr/bin and its like. Empty
/// when there is none.
std::string find_program(const std::string& name);

/// A running child. One thread at a time; the destructor kills.
class Process {
 public:
  Process() = default;
  /// The descriptors become its stdin, stdout and stderr; they stay the caller's.
  Process(const std::vector<std::string>& argv, const std::vector<std::string>& env, int in, int out,
          int err);
  ~Process();
  Process(Process&& other) noexcept;
  Process& operator=(Process&& other) noexcept;

  pid_t pid() const noexcept { return pid_; }
  /// Started and not yet ended; a stopped one runs, too.
  bool running();
  bool paused() const noexcept { return paused_; }
  void signal(int number);
  /// SIGSTOP; on return every thread of it stands still.
  void pause();
  /// SIGCONT.
  void resume();
  /// SIGKILL; on return it is gone.
  void kill();
  /// The code as in Output; empty when it still runs at the deadline.
  std::optional<int> wait(std::chrono::milliseconds deadline);
  /// The code of one that has ended.
  int code() const noexcept { return code_; }

 private:
  bool reap(int options);

  pid_t pid_ = -1;
  int code_ = -1;
  bool ended_ = true, paused_ = false;
};

}  // namespace rig
