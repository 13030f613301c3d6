// Runs of Google Benchmark as a table of budgets: what, measured, budget, and whether it is kept.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

namespace bench {

/// Reads these counters of a row: "budget" in the unit of the row (0: none); "ratio" instead of the CPU time; "changes",
/// "seconds", "lists" and "behind" of reads.cpp; "bytes"; and "wrong": more than 0 if what was measured is not what it
/// should be.
class Budgets final : public benchmark::BenchmarkReporter {
 public:
  bool ReportContext(const Context& context) override {
#ifndef __OPTIMIZE__
    std::printf("not optimized: these figures mean nothing\n");
#endif
    std::printf("%d processors; CPU time of the threads that are measured\n", context.cpu_info.num_cpus);
    std::printf("%-40s %8s %12s %12s %5s\n", "what", "threads", "measured", "budget", "");
    return true;
  }
  void ReportRuns(const std::vector<Run>& runs) override {
    for (const Run& run : runs) report(run);
    std::fflush(stdout);
  }
  /// Whether a row was.
  bool wrong() const { return wrong_; }

 private:
  static double counter(const Run& run, const char* name) {
    const auto found = run.counters.find(name);
    return found == run.counters.end() ? 0 : found->second.value;
  }
  static std::string shown(double value, const char* unit) {
    char text[40];
    std::snprintf(text, sizeof text, "%.1f %s", value, unit);
    return text;
  }
  void report(const Run& run) {
    const bool is_ratio = run.counters.find("ratio") != run.counters.end();
    const double measured = is_ratio ? counter(run, "ratio") : run.GetAdjustedCPUTime();
    const double budget = counter(run, "budget");
    const char* const unit = is_ratio ? "x" : "ns";
    std::printf("%-40s %8d %12s %12s %5s", run.run_name.function_name.c_str(), static_cast<int>(run.threads),
                shown(measured, unit).c_str(), budget > 0 ? shown(budget, unit).c_str() : "",
                budget <= 0          ? ""
                : measured <= budget ? "ok"
                                     : "over");
    const double seconds = counter(run, "seconds");
    if (run.counters.find("changes") != run.counters.end()) {
      std::printf("  %.0f changes in %.2f s (%.0f/s), %.0f lists, behind %.0f", counter(run, "changes"),
                  seconds, counter(run, "changes") / seconds, counter(run, "lists"), counter(run, "behind"));
    }
    if (is_ratio) std::printf("  of %.1f MB of JSON", counter(run, "bytes") / 1e6);
    if (counter(run, "wrong") > 0) {
      wrong_ = true;
      std::printf("  WRONG");
    }
    std::printf("\n");
  }
  bool wrong_ = false;
};

}  // namespace bench
