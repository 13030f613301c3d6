// Carries out a schedule of faults, and takes all of them back.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rig/cluster.hpp"
#include "rig/raw_etcd.hpp"
#include "soak/client.hpp"
#include "soak/schedule.hpp"

namespace soak {

/// What somebody else did to the keys that clients registered: nobody was told before.
struct Interference {
  Clock::time_point at;
  std::int64_t lease = 0;  // revoked
  std::string key;         // deleted
  bool deposed = false;    // a leader that stood still until another one was elected runs again
};

/// On one thread.
class Faults {
 public:
  Faults(Stage& stage, rig::Cluster& cluster, std::vector<Client*> clients, rig::Oracle& oracle);

  /// Begins and ends what is due.
  void step(std::chrono::milliseconds now, const Schedule& schedule);
  /// Everything is well again.
  void lift();

  const std::map<std::string, std::size_t>& counts() const { return counts_; }
  const std::vector<Interference>& interference() const { return interference_; }

 private:
  struct End {
    std::function<void()> action;
    std::string text;
  };
  void begin(const Fault& fault, std::chrono::milliseconds now);
  void later(std::chrono::milliseconds at, std::string text, std::function<void()> action);
  bool all_alive();
  bool led_by_another(const rig::Etcd& member);
  bool compact(std::int64_t to);
  rig::RawEvent some_registered_key(std::uint64_t draw);

  Stage& stage_;
  rig::Cluster& cluster_;
  const std::vector<Client*> clients_;
  rig::Oracle& oracle_;
  rig::RawEtcd etcd_;
  const std::string etcdctl_;
  std::size_t next_ = 0;
  std::multimap<std::chrono::milliseconds, End> ends_;
  std::map<std::string, std::size_t> counts_;
  std::vector<Interference> interference_;
};

}  // namespace soak
