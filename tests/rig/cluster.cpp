// Members of a cluster know all peer ports from the start, and are ready only together.
#include "cluster.hpp"

#include <algorithm>
#include <thread>

namespace rig {
namespace {

template <class Condition>
bool poll_until(Condition condition, std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  while (!condition()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return true;
}

}  // namespace

EtcdOptions Cluster::quick() {
  EtcdOptions options;
  options.heartbeat = std::chrono::milliseconds(50);
  options.election = std::chrono::milliseconds(500);
  return options;
}

Cluster::Cluster(std::size_t members, EtcdOptions options) {
  const auto root_password = std::exchange(options.root_password, {});
  std::vector<std::shared_ptr<const Port>> ports;
  for (std::size_t i = 0; i < members; ++i) {
    ports.push_back(std::make_shared<const Port>());
    options.cluster += (i ? ",m" : "m") + std::to_string(i) + "=http://" + ports.back()->endpoint();
  }
  for (std::size_t i = 0; i < members; ++i) {
    options.name = "m" + std::to_string(i);
    members_.emplace_back(options, ports[i]).start();
  }
  wait_ready();
  if (!root_password.empty()) enable_auth(root_password, options.users);
}

std::vector<std::size_t> Cluster::alive() {
  std::vector<std::size_t> all;
  for (std::size_t i = 0; i < size(); ++i)
    if (members_[i].running() && !members_[i].paused()) all.push_back(i);
  return all;
}

void Cluster::wait_ready(std::chrono::milliseconds deadline) {
  for (const auto i : alive()) members_[i].wait_ready(deadline);
  leader(deadline);
}

std::size_t Cluster::leader(std::chrono::milliseconds deadline) {
  std::size_t found = 0;
  const auto one_leads = [&] {
    std::size_t leaders = 0;
    for (const auto i : alive()) {
      try {
        if (members_[i].is_leader()) {
          found = i;
          ++leaders;
        } else if (members_[i].metric("etcd_server_has_leader") != 1) {
          return false;
        }
      } catch (const std::exception&) {
        return false;  // on its way up or down
      }
    }
    return leaders == 1;
  };
  if (poll_until(one_leads, deadline)) return found;
  std::string logs;
  for (auto& member : members_) logs += "\n" + member.options().name + ":\n" + member.log_tail(10);
  throw EtcdError("no single leader within " + std::to_string(deadline.count()) + " ms; logs:" + logs);
}

std::size_t Cluster::follower() {
  const auto leads = leader();
  for (const auto i : alive())
    if (i != leads) return i;
  throw EtcdError("no follower is alive");
}

void Cluster::move_leader(std::size_t to) {
  const auto from = leader();
  if (from == to) return;
  const auto done = members_[from].ctl({"move-leader", members_.at(to).member_id()});
  if (!done.ok()) throw EtcdError("move-leader to m" + std::to_string(to) + ": " + done.err + done.out);
  if (!poll_until([&] { return leader() == to; }, std::chrono::seconds(10)))
    throw EtcdError("m" + std::to_string(to) + " does not lead after move-leader");
}

std::vector<std::string> Cluster::endpoints() const {
  std::vector<std::string> all;
  for (const auto& member : members_) all.push_back(member.endpoint());
  return all;
}

void Cluster::enable_auth(const std::string& root_password, const std::vector<EtcdUser>& users) {
  members_.front().enable_auth(root_password, users);
  for (auto& member : members_) member.speak_as("root:" + root_password);
}

}  // namespace rig
