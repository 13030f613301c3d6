// What the benchmarks share: their arguments, samples with percentiles, a table on stdout, and the same as JSON.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <fstream>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace bench {

using Clock = std::chrono::steady_clock;

/// `--name value` pairs.
class Arguments {
 public:
  Arguments(int argc, char** argv, const std::set<std::string>& known) {
    for (int i = 1; i < argc; i += 2) {
      const std::string name = argv[i];
      if (!known.contains(name)) throw std::invalid_argument("unknown argument " + name);
      if (i + 1 == argc) throw std::invalid_argument(name + " needs a value");
      values_[name] = argv[i + 1];
    }
  }
  std::string text(const std::string& name, std::string otherwise = {}) const {
    const auto found = values_.find(name);
    return found != values_.end() ? found->second : otherwise;
  }
  std::uint64_t number(const std::string& name, std::uint64_t otherwise) const {
    const auto found = values_.find(name);
    return found != values_.end() ? std::stoull(found->second) : otherwise;
  }

 private:
  std::map<std::string, std::string> values_;
};

/// Times that were measured.
class Samples {
 public:
  void add(Clock::duration time) { times_.push_back(time); }
  std::size_t size() const noexcept { return times_.size(); }
  /// By nearest rank: the smallest time that this part of the samples does not exceed. 0 without samples.
  double milliseconds(double part) const {
    if (times_.empty()) return 0;
    std::vector<Clock::duration> sorted = times_;
    std::sort(sorted.begin(), sorted.end());
    const double rank = part * static_cast<double>(sorted.size());
    const auto at = std::min(sorted.size() - 1, static_cast<std::size_t>(std::max(rank - 1e-9, 0.0)));
    return std::chrono::duration<double, std::milli>(sorted[at]).count();
  }

 private:
  std::vector<Clock::duration> times_;
};

/// Rows of samples, compared with one of them, and facts about the run. Rows stay where they are.
class Report {
 public:
  Report(std::string benchmark, std::string about)
      : benchmark_(std::move(benchmark)), about_(std::move(about)) {
#ifdef __OPTIMIZE__
    fact("optimized", true);
#else
    fact("optimized", false);
#endif
  }

  Samples& row(std::string name) { return rows_.emplace_back(std::move(name), Samples()).second; }
  /// The row that ratios refer to.
  void floor(const std::string& name) { floor_ = name; }
  void fact(const std::string& name, boost::json::value value) { facts_[name] = std::move(value); }

  void print() const {
    std::printf("%s: %s\n", benchmark_.c_str(), about_.c_str());
    std::printf("%-40s %9s %9s %9s  %s\n", "ms", "p50", "p90", "p99", "p50 / floor");
    for (const auto& [name, samples] : rows_) {
      std::printf("%-40s %9.3f %9.3f %9.3f", name.c_str(), samples.milliseconds(0.5),
                  samples.milliseconds(0.9), samples.milliseconds(0.99));
      if (const double ratio = ratio_of(samples); ratio > 0) std::printf("  %.2f", ratio);
      std::printf("%s\n", name == floor_ ? " (floor)" : "");
    }
    for (const auto& each : facts_) {
      std::printf("%s: %s\n", std::string(each.key()).c_str(), boost::json::serialize(each.value()).c_str());
    }
  }

  void write_json(const std::string& file) const {
    boost::json::array rows;
    for (const auto& [name, samples] : rows_) {
      boost::json::object row;
      row["name"] = name;
      row["samples"] = samples.size();
      row["p50_ms"] = samples.milliseconds(0.5);
      row["p90_ms"] = samples.milliseconds(0.9);
      row["p99_ms"] = samples.milliseconds(0.99);
      if (const double ratio = ratio_of(samples); ratio > 0) row["ratio"] = ratio;
      rows.push_back(std::move(row));
    }
    boost::json::object all;
    all["benchmark"] = benchmark_;
    all["about"] = about_;
    all["floor"] = floor_;
    all["rows"] = std::move(rows);
    all["facts"] = facts_;
    std::ofstream out(file);
    out << boost::json::serialize(all) << '\n';
    if (!out.flush()) throw std::runtime_error("cannot write " + file);
  }

 private:
  double ratio_of(const Samples& samples) const {
    for (const auto& [name, floor] : rows_) {
      if (name == floor_ && floor.milliseconds(0.5) > 0)
        return samples.milliseconds(0.5) / floor.milliseconds(0.5);
    }
    return 0;
  }

  const std::string benchmark_, about_;
  std::string floor_;
  std::deque<std::pair<std::string, Samples>> rows_;
  boost::json::object facts_;
};

}  // namespace bench
