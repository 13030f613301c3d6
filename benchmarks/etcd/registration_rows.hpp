// Registering many instances at a time, and keeping many alive.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <latch>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "etcd/world.hpp"
#include "floor/etcd.hpp"
#include "registry/facade/registry.hpp"
#include "report.hpp"
#include "rig/etcd.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/run.hpp"

namespace bench {

/// All calls are under way before the first one is done; returns when the last one is.
inline void register_all(asio::thread_pool& pool, registry::Registry& reg, std::size_t count) {
  std::latch done(static_cast<std::ptrdiff_t>(count));
  std::atomic<std::size_t> failed = 0;
  for (std::size_t i = 0; i < count; ++i) {
    asio::co_spawn(pool, reg.register_instance(instance(i), ttl),
                   [&](const std::exception_ptr& error, const registry::Registration&) {
                     if (error) ++failed;
                     done.count_down();
                   });
  }
  done.wait();
  if (failed > 0) throw std::runtime_error(std::to_string(failed) + " registrations failed");
}

inline void registration_rows(Table& table, rig::Etcd& server, rig::RawEtcd& etcd, int scale) {
  constexpr std::size_t instances = 1000;
  const auto check = [&](std::size_t expected) {
    if (const std::size_t found = count(etcd); found != expected) {
      throw std::runtime_error(std::to_string(found) + " keys are there, not " + std::to_string(expected));
    }
  };
  const auto all = pairs(instances);
  const auto channel = bare::connect(server.endpoint());
  asio::thread_pool pool(1);
  registry::etcd::Connector store(pool.get_executor(), at(server.endpoint()));
  Row row("1,000 register_instance calls started together", "ms");
  row.budget = 0.2;
  const auto floor = [&] {
    const auto begin = Clock::now();
    const auto leases = bare::register_all(channel, all, ttl.count());
    const double took = since(begin);
    check(instances);
    bare::revoke_all(channel, leases);
    check(0);
    return took;
  };
  const auto library = [&] {
    registry::Registry reg(store);
    const auto begin = Clock::now();
    register_all(pool, reg, instances);
    const double took = since(begin);
    check(instances);
    rig::run(pool, reg.close());
    check(0);
    return took;
  };
  measure_pairs(row, 20 * scale + 1, floor, library);
  table.add(std::move(row));
  rig::run(pool, store.close());
  pool.join();
}

/// Counted by etcd for 30 s. Each renewal comes 9 to 11 s behind the last one, so that the edges of this time, 5 s
/// and 35 s behind the registration, lie between two: three of each lease are in it, neither more nor less by chance.
inline void renewal_rows(Table& table, rig::Etcd& server, rig::RawEtcd& etcd) {
  constexpr std::size_t instances = 10'000;
  using namespace std::chrono_literals;
  const auto check = [&] {
    if (const std::size_t found = count(etcd); found != instances)
      throw std::runtime_error("of 10000 instances " + std::to_string(found) + " are there");
  };
  const auto renewals = [&] { return server.metric("etcd_debugging_lease_renewed_total"); };
  const auto messages = [&] {
    return server.metric("grpc_server_msg_received_total", "grpc_method=\"LeaseKeepAlive\"");
  };
  asio::thread_pool pool(1);
  registry::etcd::Connector store(pool.get_executor(), at(server.endpoint()));
  registry::Registry reg(store);
  const auto begin = Clock::now();
  register_all(pool, reg, instances);
  const double registered = since(begin);
  check();
  const std::size_t leases = server.lease_count();
  std::this_thread::sleep_until(begin + 5s);
  const double renewed_before = renewals(), sent_before = messages(), cpu_before = process_cpu();
  std::this_thread::sleep_until(begin + 35s);
  const double renewed = renewals() - renewed_before, sent = messages() - sent_before;
  const double cpu = (process_cpu() - cpu_before) / 1e6;
  check();
  if (sent < static_cast<double>(leases) || renewed > sent)
    throw std::runtime_error("etcd counts " + std::to_string(renewed) + " renewals of " +
                             std::to_string(sent) + " messages");
  Row row("10,000 instances, TTL 30 s: renewals in 10 s for 1,000 instances", "");
  row.library = sent / 3 / (static_cast<double>(instances) / 1000);
  row.budget = 1;
  row.of_ratio = false;
  char text[160];
  std::snprintf(text, sizeof text, "%zu leases, %.0f messages in 30 s, %.0f ms of CPU; registered in %.0f ms",
                leases, sent, cpu, registered);
  row.note = text;
  table.add(std::move(row));
  rig::run(pool, reg.close());
  rig::run(pool, store.close());
  pool.join();
}

}  // namespace bench
