// Inside of Etcd, shared by its two source files.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <thread>
#include <utility>

#include "etcd.hpp"

namespace rig {

struct EtcdState {
  EtcdOptions options;
  std::string binary, etcdctl;
  TempDir dir;
  std::shared_ptr<const Port> client, peer, metrics;
  Process process;
  int backups = 0;
  mutable std::mutex mutex;  // of user
  std::string user;          // "name:password" for etcdctl

  std::string scheme() const { return options.tls ? "https" : "http"; }
  [[noreturn]] void fail(const std::string& what) const;
  std::string tail(std::size_t lines) const;
  std::vector<std::string> command() const;
  void spawn();
  void wait_ready(std::chrono::milliseconds deadline);
  void stop();
  void new_ports() {
    client = std::make_shared<const Port>();
    peer = std::make_shared<const Port>();
    metrics = std::make_shared<const Port>();
  }
  void wipe() {
    std::filesystem::remove_all(dir / "data");
    set_user({});
  }
  void first_use(Etcd& self) const {
    if (!options.root_password.empty()) self.enable_auth(options.root_password, options.users);
  }
  std::string current_user() const {
    const std::lock_guard lock(mutex);
    return user;
  }
  void set_user(std::string name_and_password) {
    const std::lock_guard lock(mutex);
    user = std::move(name_and_password);
  }
};

struct Etcd::State : EtcdState {};

}  // namespace rig
