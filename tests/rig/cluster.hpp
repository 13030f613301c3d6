// An etcd cluster on this machine: `Cluster cluster(3); cluster[cluster.leader()].pause();`
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "etcd.hpp"

namespace rig {

/// Members are Etcd objects; their restart() waits until they have a leader again, so bring back a lost
/// quorum by start() on each and then wait_ready(). restart_wiped() is for single servers: a member of a
/// cluster must not lose its data.
class Cluster {
 public:
  /// Options count for every member. quick(): half of etcd's own heartbeat and election times, so that a
  /// loaded machine does not depose a leader by accident.
  explicit Cluster(std::size_t members = 3, EtcdOptions options = quick());

  std::size_t size() const noexcept { return members_.size(); }
  Etcd& operator[](std::size_t i) { return members_.at(i); }
  /// The members that run and are not paused.
  std::vector<std::size_t> alive();

  /// Until every running member has the same leader.
  void wait_ready(std::chrono::milliseconds deadline = std::chrono::seconds(30));
  /// Waits until exactly one member that is not dead or paused leads.
  std::size_t leader(std::chrono::milliseconds deadline = std::chrono::seconds(20));
  /// Any other one that is alive.
  std::size_t follower();
  void move_leader(std::size_t to);

  std::vector<std::string> endpoints() const;
  /// Through all members that are alive.
  void enable_auth(const std::string& root_password, const std::vector<EtcdUser>& users = {});

  static EtcdOptions quick();

 private:
  std::vector<Etcd> members_;
};

}  // namespace rig
