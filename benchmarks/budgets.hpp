// Runs of Google Benchmark as rows of the table.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "report.hpp"

namespace bench {

/// A benchmark that compares sets the counters "floor", "library" and "ratio", in the unit of its label (ns without one);
/// of any other the CPU time counts, in ns. "budget" bounds the ratio, if there is one. Counters that are shown
/// beside it: "changes", "seconds", "lists" and "behind" of reads.cpp. "wrong": more than 0 if what was measured is not
/// what it should be.
class Budgets final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context&) override {
#ifndef __OPTIMIZE__
    std::printf("not optimized: these figures mean nothing\n");
#endif
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    // Of those that repeat the median: a machine that is busy for a moment must not decide.
    std::vector<const Run*> each;
    bool any_wrong = false;
    for (const Run& run : runs) {
      if (run.run_type != Run::RT_Iteration) continue;
      each.push_back(&run);
      any_wrong = any_wrong || counter(run, "wrong").value_or(0) > 0;
    }
    if (each.empty()) return;
    std::sort(each.begin(), each.end(),
              [](const Run* a, const Run* b) { return a->GetAdjustedCPUTime() < b->GetAdjustedCPUTime(); });
    report(*each[each.size() / 2], any_wrong);
  }
  const Table& table() const { return table_; }
  /// Whether a row was.
  bool wrong() const { return wrong_; }

 private:
  static std::optional<double> counter(const Run& run, const char* name) {
    const auto found = run.counters.find(name);
    return found == run.counters.end() ? std::nullopt : std::optional<double>(found->second.value);
  }
  void report(const Run& run, bool any_wrong) {
    Row row(run.run_name.function_name, run.report_label.empty() ? "ns" : run.report_label);
    if (run.threads > 1) row.what += ", " + std::to_string(run.threads) + " threads";
    row.floor = counter(run, "floor");
    row.ratio = counter(run, "ratio");
    row.library = row.ratio ? counter(run, "library") : run.GetAdjustedCPUTime();
    row.budget = counter(run, "budget");
    row.of_ratio = row.ratio.has_value();
    if (const auto changes = counter(run, "changes")) {
      char text[120];
      std::snprintf(text, sizeof text, "%.0f changes/s, %.0f lists, behind %.0f",
                    *changes / counter(run, "seconds").value_or(0), counter(run, "lists").value_or(0),
                    counter(run, "behind").value_or(0));
      row.note = text;
    }
    if (any_wrong) {
      wrong_ = true;
      row.note += "  WRONG";
    }
    table_.add(std::move(row));
  }

  Table table_;
  bool wrong_ = false;
};

/// The main of a program of Google Benchmark: `--json FILE` and Google Benchmark's own arguments. 1: something was wrong.
template <class AddAll>
int run_benchmarks(int argc, char** argv, AddAll add_all) {
  std::vector<std::string> arguments(argv, argv + argc);
  std::string json;
  for (std::size_t i = 1; i + 1 < arguments.size(); ++i) {
    if (arguments[i] != "--json") continue;
    json = arguments[i + 1];
    arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(i),
                    arguments.begin() + static_cast<std::ptrdiff_t>(i) + 2);
  }
  std::vector<char*> pointers;
  for (std::string& each : arguments) pointers.push_back(each.data());
  int count = static_cast<int>(pointers.size());
  pointers.push_back(nullptr);
  benchmark::Initialize(&count, pointers.data());
  if (benchmark::ReportUnrecognizedArguments(count, pointers.data())) return 1;
  add_all();
  Budgets rows;
  benchmark::RunSpecifiedBenchmarks(&rows);
  rows.table().write(json);
  return rows.wrong() ? 1 : 0;
}

}  // namespace bench
