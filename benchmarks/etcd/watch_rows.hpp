// What an event costs, and how late it is. Floor and library follow in processes of their own, one after the other; this
// process writes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "etcd/follower.hpp"
#include "etcd/world.hpp"
#include "report.hpp"
#include "rig/raw_etcd.hpp"

namespace bench {

/// The next changes: of each instance in turn, numbered.
class Changes {
 public:
  explicit Changes(std::size_t instances) : instances_(instances) {}
  std::vector<Pair> next(std::size_t count) {
    std::vector<Pair> made;
    for (std::size_t i = 0; i < count; ++i) {
      ++number_;
      made.push_back(pair(static_cast<std::size_t>(number_) % instances_, number_));
    }
    return made;
  }

 private:
  const std::size_t instances_;
  std::int64_t number_ = 0;
};

/// The CPU time of the following process for each event, in us. `together`: how many changes have one revision and
/// come in one message. Not more than 800 events are under way, so that the queue of no consumer folds any.
inline double event_cpu(rig::RawEtcd& etcd, const std::string& endpoint, const std::string& kind,
                        std::size_t instances, std::size_t together, int windows) {
  constexpr std::size_t window = 800;
  constexpr int warm_up = 2;
  Follower follower(kind, endpoint, instances, window,
                    static_cast<std::int64_t>(window) * (warm_up + windows));
  Changes changes(instances);
  Word begin, end;
  for (int i = 0; i < warm_up + windows; ++i) {
    for (std::size_t written_now = 0; written_now < window; written_now += together) {
      const std::vector<Pair> some = changes.next(together);
      written(etcd,
              (together == 1 ? etcd.put(some[0].first, some[0].second) : etcd.put_all(some)).has_value());
    }
    end = follower.next();
    if (i + 1 == warm_up) begin = end;
  }
  return (end.cpu - begin.cpu) / static_cast<double>(end.events - begin.events) / 1e3;
}

/// From the moment before a put is sent until the consumer has the event, p50 of as many puts in ms. Each put comes a
/// while after the last event.
inline double event_delay(rig::RawEtcd& etcd, const std::string& endpoint, const std::string& kind,
                          std::size_t instances, int puts) {
  constexpr int warm_up = 20;
  Follower follower(kind, endpoint, instances, 1, warm_up + puts);
  Changes changes(instances);
  std::vector<double> delays;
  for (int i = -warm_up; i < puts; ++i) {
    const Pair changed = changes.next(1).front();
    const auto before = Clock::now();
    written(etcd, etcd.put(changed.first, changed.second).has_value());
    const Clock::time_point arrived{Clock::duration(follower.next().time)};
    if (i >= 0) delays.push_back(milliseconds(arrived - before));
  }
  return median(delays);
}

inline void watch_rows(Table& table, rig::RawEtcd& etcd, const std::string& endpoint, int scale) {
  constexpr std::size_t instances = 1000;
  fill(etcd, pairs(instances));
  const auto cpu_row = [&](const char* what, const char* against, std::size_t together, int windows,
                           double budget) {
    Row row(what, "us");
    if (budget > 0) row.budget = budget;
    const auto by = [&](const char* kind) {
      return [&, kind] { return event_cpu(etcd, endpoint, kind, instances, together, windows); };
    };
    measure_pairs(row, 2 * scale + 1, by("floor"), by(against));
    table.add(std::move(row));
  };
  const auto delay_row = [&](const char* what, const char* against, double budget) {
    Row row(what, "ms");
    if (budget > 0) row.budget = budget;
    const auto by = [&](const char* kind) {
      return [&, kind] { return event_delay(etcd, endpoint, kind, instances, 200); };
    };
    measure_pairs(row, 4 * scale + 1, by("floor"), by(against));
    table.add(std::move(row));
  };
  cpu_row("watch event to the consumer, decoded: CPU, 100 changes in a revision", "library", 100, 60, 1.5);
  cpu_row("bare callbacks: CPU of an event, 100 changes in a revision", "callbacks", 100, 60, 0);
  cpu_row("watch event to the consumer, decoded: CPU, each by itself", "library", 1, 3, 1.5);
  cpu_row("bare callbacks and an executor: CPU of an event, each by itself", "handed", 1, 3, 0);
  delay_row("put -> event at the consumer, p50", "library", 1.1);
  delay_row("bare callbacks and an executor: put -> event, p50", "handed", 0);
}

}  // namespace bench
