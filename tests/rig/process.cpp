// fork and exec from one thread that lives as long as the process: the parent-death signal of a child comes
// when the *thread* that forked it ends, so a child started by a passing thread would be killed with that
// thread.
#include "process.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <system_error>
#include <thread>
#include <utility>

#include "fd.hpp"
#include "quiet_thread.hpp"

extern char** environ;

namespace rig {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void fail(const std::string& what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/// Runs one task at a time on a thread that never ends.
class Spawner {
 public:
  static Spawner& instance() {
    static Spawner* const one = new Spawner;  // never destroyed: its thread must outlive every child
    return *one;
  }

  pid_t run(const std::function<pid_t()>& task) {
    const std::lock_guard one_at_a_time(callers_);
    std::unique_lock lock(mutex_);
    task_ = &task;
    wake_.notify_all();
    wake_.wait(lock, [this] { return task_ == nullptr; });
    return pid_;
  }

 private:
  Spawner() {
    quiet_thread([this] {
      std::unique_lock lock(mutex_);
      for (;;) {
        wake_.wait(lock, [this] { return task_ != nullptr; });
        pid_ = (*task_)();
        task_ = nullptr;
        wake_.notify_all();
      }
    }).detach();
  }

  std::mutex callers_, mutex_;
  std::condition_variable wake_;
  const std::function<pid_t()>* task_ = nullptr;
  pid_t pid_ = -1;
};

std::vector<std::string> environment(const std::vector<std::string>& added) {
  std::vector<std::string> all;
  for (char** entry = environ; *entry; ++entry)
    if (std::strncmp(*entry, "ETCD", 4) != 0) all.emplace_back(*entry);
  all.insert(all.end(), added.begin(), added.end());
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  for (auto& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

// In the child: async-signal-safe calls only.
void move_to(int from, int to) {
  if (from == to)
    ::fcntl(from, F_SETFD, 0);
  else
    ::dup2(from, to);
}

int code_of(int status) { return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status); }

/// Adds what there is to read; false at the end of the stream.
bool drain(int fd, std::string& into) {
  char buffer[16384];
  const auto n = ::read(fd, buffer, sizeof buffer);
  if (n > 0) into.append(buffer, static_cast<std::size_t>(n));
  return n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN));
}

}  // namespace

std::string find_program(const std::string& name) {
  const auto usable = [](const std::string& path) { return ::access(path.c_str(), X_OK) == 0; };
  if (name.find('/') != std::string::npos) return usable(name) ? name : std::string();
  const char* path = std::getenv("PATH");
  std::string dirs = std::string(path ? path : "") + ":/usr/bin:/usr/local/bin:/bin:";
  for (std::size_t at = 0, end; (end = dirs.find(':', at)) != std::string::npos; at = end + 1) {
    if (end == at) continue;
    if (auto full = dirs.substr(at, end - at) + "/" + name; usable(full)) return full;
  }
  return {};
}

Process::Process(const std::vector<std::string>& argv, const std::vector<std::string>& env, int in, int out,
                 int err) {
  if (argv.empty()) throw std::invalid_argument("rig::Process: no program");
  const auto program = find_program(argv.front());
  if (program.empty()) throw std::runtime_error("no such program: " + argv.front());
  auto args = argv;
  auto vars = environment(env);
  const auto arg_pointers = pointers(args), env_pointers = pointers(vars);
  const pid_t parent = ::getpid();
  const auto spawn = [&]() -> pid_t {
    const pid_t pid = ::fork();
    if (pid != 0) return pid;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(127);  // it died before the line above
    ::setpgid(0, 0);                          // a Ctrl-C is the test's
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::signal(SIGPIPE, SIG_DFL);
    move_to(in, 0);
    move_to(out, 1);
    move_to(err, 2);
    ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
    ::execve(program.c_str(), arg_pointers.data(), env_pointers.data());
    ::_exit(127);
  };
  pid_ = Spawner::instance().run(spawn);
  if (pid_ < 0) fail("fork for " + program);
  ended_ = false;
}

Process::~Process() { kill(); }

Process::Process(Process&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)),
      code_(other.code_),
      ended_(std::exchange(other.ended_, true)),
      paused_(std::exchange(other.paused_, false)) {}

Process& Process::operator=(Process&& other) noexcept {
  if (this == &other) return *this;
  kill();
  pid_ = std::exchange(other.pid_, -1);
  code_ = other.code_;
  ended_ = std::exchange(other.ended_, true);
  paused_ = std::exchange(other.paused_, false);
  return *this;
}

bool Process::reap(int options) {
  if (ended_) return true;
  int status = 0;
  pid_t got;
  do {
    got = ::waitpid(pid_, &status, options);
  } while (got < 0 && errno == EINTR);
  if (got == pid_ && WIFSTOPPED(status)) {
    paused_ = true;
  } else if (got == pid_ && WIFCONTINUED(status)) {
    paused_ = false;
  } else if (got != 0) {
    code_ = got == pid_ ? code_of(status) : -1;
    ended_ = true;
    paused_ = false;
  }
  return ended_;
}

bool Process::running() { return !reap(WNOHANG); }

void Process::signal(int number) {
  if (!ended_) ::kill(pid_, number);
}

void Process::pause() {
  signal(SIGSTOP);
  while (!paused_ && !reap(WUNTRACED)) {
  }
}

void Process::resume() {
  signal(SIGCONT);
  while (paused_ && !reap(WCONTINUED)) {
  }
}

void Process::kill() {
  if (ended_) return;
  signal(SIGCONT);
  signal(SIGKILL);
  while (!reap(0)) {
  }
}

std::optional<int> Process::wait(std::chrono::milliseconds deadline) {
  const auto end = Clock::now() + deadline;
  while (!reap(WNOHANG)) {
    if (Clock::now() >= end) return std::nullopt;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return code_;
}

Output run(std::vector<std::string> argv, RunOptions options) {
  int out_pipe[2], err_pipe[2];
  if (::pipe2(out_pipe, O_CLOEXEC) != 0) fail("pipe");
  Fd out(out_pipe[0]), out_end(out_pipe[1]);
  if (::pipe2(err_pipe, O_CLOEXEC) != 0) fail("pipe");
  Fd err(err_pipe[0]), err_end(err_pipe[1]);
  // A file as stdin: a command that does not read it to the end raises no SIGPIPE here.
  Fd in(::memfd_create("stdin", MFD_CLOEXEC));
  if (in.get() < 0) fail("memfd_create");
  const auto& input = options.input;
  if (::write(in.get(), input.data(), input.size()) != static_cast<ssize_t>(input.size())) fail("write");
  ::lseek(in.get(), 0, SEEK_SET);

  Process process(argv, options.env, in.get(), out_end.get(), err_end.get());
  out_end.reset();
  err_end.reset();
  Output result;
  const auto end = Clock::now() + options.deadline;
  pollfd fds[2] = {{out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}};
  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now()).count();
    if (left <= 0) {
      result.timed_out = true;
      break;
    }
    if (::poll(fds, 2, static_cast<int>(left)) < 0 && errno != EINTR) fail("poll");
    if (fds[0].revents && !drain(out.get(), result.out)) fds[0].fd = -1;
    if (fds[1].revents && !drain(err.get(), result.err)) fds[1].fd = -1;
  }
  if (!result.timed_out) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
    result.timed_out = !process.wait(left);
  }
  process.kill();
  result.code = process.code();
  return result;
}

}  // namespace rig
