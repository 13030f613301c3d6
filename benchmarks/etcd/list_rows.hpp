// What it takes to read a large service.
#pragma once

#include <asio/thread_pool.hpp>
#include <chrono>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

#include "etcd/world.hpp"
#include "floor/etcd.hpp"
#include "registry/facade/registry.hpp"
#include "registry/store/follow.hpp"
#include "report.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/run.hpp"

namespace bench {

/// 100,000 instances, in pages of the same size. Wall time; the CPU time of this process stands in the note.
inline void list_rows(Table& table, rig::RawEtcd& etcd, const std::string& endpoint, int scale) {
  constexpr std::size_t instances = 100'000;
  const auto check = [](std::size_t found) {
    if (found != instances)
      throw std::runtime_error("a list has " + std::to_string(found) + " of 100000 instances");
  };
  fill(etcd, pairs(instances));
  const registry::KeyRange range = registry::KeyLayout().service_range(service);
  const auto page = static_cast<std::int64_t>(registry::detail::FollowConfig().page_size);
  const auto channel = bare::connect(endpoint);
  asio::thread_pool pool(1);
  registry::etcd::Connector store(pool.get_executor(), at(endpoint));
  std::vector<double> bare_cpu, cpu;
  Row row("list of 100,000 instances into a view", "ms");
  row.budget = 1.5;
  const auto floor = [&] {
    const double cpu_before = process_cpu();
    const auto begin = Clock::now();
    check(bare::list(channel, range.begin, range.end, page));
    const double took = since(begin);
    bare_cpu.push_back((process_cpu() - cpu_before) / 1e6);
    return took;
  };
  const auto library = [&] {
    registry::Registry reg(store);
    const double cpu_before = process_cpu();
    const auto begin = Clock::now();
    const registry::ServiceView view = rig::run(pool, reg.subscribe(service));
    const auto list = view.snapshot();
    const double took = since(begin);
    cpu.push_back((process_cpu() - cpu_before) / 1e6);
    check(list->instances.size());
    rig::run(pool, reg.close());
    return took;
  };
  measure_pairs(row, 2 * scale + 1, floor, library);
  Row used("list of 100,000 instances into a view: CPU of the client", "ms");
  used.floor = median(bare_cpu);
  used.library = median(cpu);
  used.ratio = *used.library / *used.floor;
  table.add(std::move(row));
  table.add(std::move(used));
  rig::run(pool, store.close());
  pool.join();
}

}  // namespace bench
