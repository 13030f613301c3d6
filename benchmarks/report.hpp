// What the benchmarks share: their arguments, the rows of the table, floor and library measured in turns, and the table on stdout
// and as JSON.
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <map>
#include <optional>
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

/// A part of the values is not greater than this: by nearest rank. 0 without values.
inline double quantile(std::vector<double> values, double part) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(part * static_cast<double>(values.size()) - 1e-9);
  const auto at = static_cast<std::size_t>(std::max(rank, 1.0)) - 1;
  return values[std::min(at, values.size() - 1)];
}
inline double median(std::vector<double> values) { return quantile(std::move(values), 0.5); }

/// The CPU time of all threads of a process so far, in ns; 0: this one.
inline double process_cpu(pid_t process = 0) {
  clockid_t clock = 0;
  timespec now{};
  if (::clock_getcpuclockid(process, &clock) != 0 || ::clock_gettime(clock, &now) != 0)
    throw std::runtime_error("no CPU clock of process " + std::to_string(process));
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

inline double milliseconds(Clock::duration time) {
  return std::chrono::duration<double, std::milli>(time).count();
}
/// Milliseconds since then.
inline double since(Clock::time_point begin) { return milliseconds(Clock::now() - begin); }

/// What was measured once.
struct Row {
  std::string what, unit;
  std::optional<double> floor, library, ratio;
  std::optional<double> budget;
  bool of_ratio = true;  // the budget bounds the ratio; if not, what the library needs, in the unit
  std::string note;

  Row(std::string name, std::string measured_in) : what(std::move(name)), unit(std::move(measured_in)) {}

  std::string verdict() const {
    const std::optional<double>& measured = of_ratio ? ratio : library;
    if (!budget || !measured) return "";
    return *measured <= *budget ? "ok" : "over";
  }

  boost::json::object json() const {
    boost::json::object made;
    const auto put = [&made](const char* name, const std::optional<double>& value) {
      if (value) made[name] = *value;
    };
    made["what"] = what;
    made["unit"] = unit;
    put("floor", floor);
    put("library", library);
    put("ratio", ratio);
    put("budget", budget);
    if (budget) {
      made["budget_of"] = of_ratio ? "ratio" : "library";
      made["verdict"] = verdict();
    }
    if (!note.empty()) made["note"] = note;
    return made;
  }
  /// As json() has written it.
  explicit Row(const boost::json::object& from) {
    const auto number = [&from](const char* name) {
      const boost::json::value* const value = from.if_contains(name);
      return value ? std::optional(value->to_number<double>()) : std::nullopt;
    };
    const auto text = [&from](const char* name) {
      const boost::json::value* const value = from.if_contains(name);
      return value ? std::string(value->as_string()) : std::string();
    };
    what = text("what");
    unit = text("unit");
    floor = number("floor");
    library = number("library");
    ratio = number("ratio");
    budget = number("budget");
    of_ratio = text("budget_of") != "library";
    note = text("note");
  }
};

/// `pairs` times floor, then library, behind a pair that warms up. What both needed are the medians; the ratio is the
/// median of the ratios of the pairs, so that a machine that is slower for a while slows both parts of a pair.
template <class Floor, class Library>
void measure_pairs(Row& row, int pairs, Floor floor, Library library) {
  std::vector<double> floors, libraries, ratios;
  for (int i = -1; i < pairs; ++i) {
    const double bare = floor();
    const double ours = library();
    if (i < 0) continue;
    floors.push_back(bare);
    libraries.push_back(ours);
    ratios.push_back(ours / bare);
  }
  row.floor = median(floors);
  row.library = median(libraries);
  row.ratio = median(ratios);
  char text[80];
  std::snprintf(text, sizeof text, "%d pairs, ratios %.2f to %.2f", pairs, quantile(ratios, 0),
                quantile(ratios, 1));
  row.note += (row.note.empty() ? "" : "; ") + std::string(text);
}

/// Rows: printed as they come, written as JSON at the end.
class Table {
 public:
  static void print_head() {
    std::printf("%-68s %-5s %10s %10s %8s %9s %-5s %s\n", "what", "unit", "floor", "library", "ratio",
                "budget", "", "note");
  }
  void add(Row row) {
    if (rows_.empty()) print_head();
    std::printf("%-68s %-5s %10s %10s %8s %9s %-5s %s\n", row.what.c_str(), row.unit.c_str(),
                shown(row.floor).c_str(), shown(row.library).c_str(), shown(row.ratio, "x").c_str(),
                shown(row.budget, row.of_ratio ? "x" : "").c_str(), row.verdict().c_str(), row.note.c_str());
    std::fflush(stdout);
    rows_.push_back(std::move(row));
  }
  std::size_t budgets() const {
    return count([](const Row& row) { return row.budget.has_value(); });
  }
  std::size_t over() const {
    return count([](const Row& row) { return row.verdict() == "over"; });
  }

  /// Nothing if no file is named.
  void write(const std::string& file) const {
    if (file.empty()) return;
    boost::json::array all;
    for (const Row& row : rows_) all.push_back(row.json());
    std::ofstream out(file);
    out << boost::json::serialize(all) << '\n';
    if (!out.flush()) throw std::runtime_error("cannot write " + file);
  }

 private:
  template <class Condition>
  std::size_t count(Condition condition) const {
    return static_cast<std::size_t>(std::count_if(rows_.begin(), rows_.end(), condition));
  }
  static std::string shown(const std::optional<double>& value, const char* unit = "") {
    if (!value) return "";
    const double size = std::abs(*value);
    char text[40];
    const bool whole = size >= 1000 || (*value == std::floor(*value) && *unit == 0);
    std::snprintf(text, sizeof text, "%.*f%s", whole ? 0 : size >= 100 ? 1 : 2, *value, unit);
    return text;
  }

  std::vector<Row> rows_;
};

}  // namespace bench
