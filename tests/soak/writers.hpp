// Those who write around the library: threads that put and delete instances with plain etcd calls.
#pragma once

#include <chrono>
#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "registry/model/codec.hpp"
#include "registry/model/keys.hpp"
#include "rig/quiet_thread.hpp"
#include "rig/raw_etcd.hpp"
#include "soak/client.hpp"

namespace soak {

inline std::string key_of(const std::string& service, const std::string& id) {
  return registry::KeyLayout("/genesis/services", "").key_of(service, id);
}

class Writers {
 public:
  Writers(Stage& stage, const std::vector<std::string>& members, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      threads_.push_back(
          rig::quiet_thread([&stage, members, i] { write(stage, members, stage.seed + 7919 * (i + 1)); }));
    }
  }
  ~Writers() { join(); }
  Writers(const Writers&) = delete;
  Writers& operator=(const Writers&) = delete;

  /// After the stage said stop.
  void join() {
    for (auto& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  static void write(Stage& stage, const std::vector<std::string>& members, std::uint64_t seed) {
    std::mt19937_64 draw(seed);
    rig::RawEtcd etcd(members);
    etcd.login("root", "root");
    const auto service = [&] { return stage.written[draw() % stage.written.size()]; };
    const auto value = [&](const std::string& of, const std::string& id) {
      return registry::encode(stage.make(of, id, draw()));
    };
    while (!stage.stop) {
      const auto dice = draw() % 1000;
      const std::string of = service(), id = Stage::written_id(draw());
      bool done = true;
      if (dice < 550) {
        done = etcd.put(key_of(of, id), value(of, id)).has_value();
      } else if (dice < 750) {
        done = etcd.del(key_of(of, id)).has_value();
      } else if (dice < 850) {
        // Not renewed: it goes away by itself.
        const auto lease = etcd.grant(std::chrono::seconds(1 + draw() % 3));
        done = lease && etcd.put(key_of(of, id), value(of, id), *lease);
      } else if (dice < 997) {
        done = etcd.txn(mixed(stage, draw, 2 + draw() % 4)).has_value();
      } else {
        // More than a watcher that is slow may have queued.
        for (int i = 0; i < 20 && done && !stage.stop; ++i)
          done = etcd.txn(mixed(stage, draw, Stage::written_ids)).has_value();
      }
      ++(done ? stage.writes : stage.failed_writes);
      std::this_thread::sleep_for(std::chrono::milliseconds(10 + draw() % 50));
    }
  }

  /// Puts, and deletes now and then, of different keys of one service, or of two.
  static rig::raw::pb::TxnRequest mixed(Stage& stage, std::mt19937_64& draw, std::size_t count) {
    rig::raw::pb::TxnRequest request;
    const auto first = draw();
    for (std::size_t i = 0; i < count; ++i) {
      const std::string of = stage.written[(first + (count < 10 ? i % 2 : 0)) % stage.written.size()];
      const std::string id = Stage::written_id(first + i);
      if (draw() % 4 == 0) {
        request.add_success()->mutable_request_delete_range()->set_key(key_of(of, id));
      } else {
        auto& put = *request.add_success()->mutable_request_put();
        put.set_key(key_of(of, id));
        put.set_value(registry::encode(stage.make(of, id, draw())));
      }
    }
    return request;
  }

  std::vector<std::thread> threads_;
};

}  // namespace soak
