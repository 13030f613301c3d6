// What the measured process of curves.cpp and the one that measures have in common: instances, and what the kernel counts.
#pragma once

#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <string>

#include "registry/model/instance.hpp"
#include "registry/model/keys.hpp"

namespace curves {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

inline const std::string last_version = "last";

/// The CPU time of a process so far, in ms; 0: this one.
inline double cpu_of(pid_t process) {
  clockid_t clock = 0;
  timespec time{};
  if (::clock_getcpuclockid(process, &clock) != 0 || ::clock_gettime(clock, &time) != 0)
    throw std::runtime_error("no CPU clock of process " + std::to_string(process));
  return static_cast<double>(time.tv_sec) * 1e3 + static_cast<double>(time.tv_nsec) / 1e6;
}

/// The memory of a process that is resident now, in MB.
inline double rss_of(const std::string& process) {
  std::ifstream statm("/proc/" + process + "/statm");
  double all = 0, resident = 0;
  if (!(statm >> all >> resident)) throw std::runtime_error("no memory of process " + process);
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

inline std::string service_name(int number) { return "service-" + std::to_string(1000 + number); }

inline registry::ServiceInstance instance(int service, int number, const std::string& version = "1.4.2") {
  registry::ServiceInstance made(service_name(service), "instance-" + std::to_string(100000 + number));
  made.version = version;
  made.metadata = {{"weight", std::to_string(1 + number % 7)}, {"region", "eu"}, {"zone", "eu-1"}};
  made.endpoints = {"grpc://10.0." + std::to_string(number / 250 % 250) + "." +
                    std::to_string(1 + number % 250) + ":9001"};
  return made;
}

inline std::string key_of(const registry::ServiceInstance& made) {
  return registry::KeyLayout().key_of(made.name, made.id);
}

}  // namespace curves
