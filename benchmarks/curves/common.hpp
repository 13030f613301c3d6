// What the measured process of curves.cpp and the one that measures have in common: instances, and what the kernel counts.
#pragma once

#include <unistd.h>

#include <chrono>
#include <fstream>
#include <stdexcept>
#include <string>

#include "instances.hpp"
#include "registry/model/instance.hpp"
#include "report.hpp"

namespace curves {

using namespace std::chrono_literals;
using bench::Clock;

inline const std::string last_version = "last";

/// The memory of a process that is resident now, in MB.
inline double rss_of(const std::string& process) {
  std::ifstream statm("/proc/" + process + "/statm");
  double all = 0, resident = 0;
  if (!(statm >> all >> resident)) throw std::runtime_error("no memory of process " + process);
  return resident * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1e6;
}

inline std::string service_name(int number) { return "service-" + std::to_string(1000 + number); }

inline registry::ServiceInstance instance(int service, int number, const std::string& version = "1.4.2") {
  return bench::field_instance(service_name(service), "instance-" + std::to_string(100000 + number),
                               static_cast<std::size_t>(number), version);
}

}  // namespace curves
