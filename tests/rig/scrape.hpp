// What Prometheus would see: a scrape, its text format read strictly, and what Prometheus itself thinks of it.
#pragma once

#include <doctest/doctest.h>

#include <cctype>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "registry/observe/metric.hpp"
#include "rig/process.hpp"

namespace rig {

/// The labels of a series.
using Labels = std::map<std::string, std::string>;

struct Family {
  std::string type, help;
  std::map<Labels, double> series;  // of samples that have the family's own name

  double sum() const {
    double sum = 0;
    for (const auto& [labels, value] : series) sum += std::isnan(value) ? 0 : value;
    return sum;
  }
};

/// Throws std::runtime_error with the line that is not as the format wants it: each family in one piece, its HELP and
/// TYPE once and first, no sample twice.
class Scrape {
 public:
  explicit Scrape(const std::string& text) {
    if (text.empty() || text.back() != '\n') throw std::runtime_error("the last line has no end");
    for (std::size_t at = 0, end; at < text.size(); at = end + 1) {
      end = text.find('\n', at);
      line_ = rest_ = std::string_view(text).substr(at, end - at);
      if (take("# HELP ")) {
        Family& family = of(name(), true);
        if (!family.help.empty() || !take(" ")) wrong("HELP");
        family.help = rest_;
      } else if (take("# TYPE ")) {
        Family& family = of(name(), true);
        if (!family.type.empty() || !take(" ")) wrong("TYPE");
        family.type = rest_;
        if (!std::set<std::string>{"counter", "gauge", "summary", "histogram"}.contains(family.type))
          wrong("type");
      } else if (!line_.empty() && !take("#")) {
        sample();
      }
    }
    current_.clear();
    line_ = rest_ = {};
  }

  const Family& operator[](std::string_view name) const {
    static const Family none;
    const auto found = families_.find(name);
    return found != families_.end() ? found->second : none;
  }
  double value(const registry::Metric& metric, const Labels& labels = {}) const {
    const auto& series = (*this)[metric.name].series;
    const auto found = series.find(labels);
    return found != series.end() ? found->second : -1;
  }
  /// The value for the service, or the only one.
  double of_service(const registry::Metric& metric, const std::string& service) const {
    return value(metric, metric.by_service ? Labels{{"service", service}} : Labels());
  }

 private:
  [[noreturn]] void wrong(const std::string& what) const {
    throw std::runtime_error("not a line of the text format (" + what + "): " + std::string(line_));
  }
  bool take(std::string_view text) {
    if (!rest_.starts_with(text)) return false;
    rest_.remove_prefix(text.size());
    return true;
  }
  std::string name() {
    const auto letter = [](char c) {
      return c == '_' || c == ':' || std::isalpha(static_cast<unsigned char>(c));
    };
    std::size_t length = 0;
    while (length < rest_.size() && (letter(rest_[length]) || (length > 0 && std::isdigit(rest_[length]))))
      ++length;
    if (length == 0) wrong("name");
    std::string found(rest_.substr(0, length));
    rest_.remove_prefix(length);
    return found;
  }
  std::string quoted() {
    if (!take("\"")) wrong("quotes");
    std::string text;
    for (; !rest_.empty(); rest_.remove_prefix(1)) {
      if (take("\"")) return text;
      if (!take("\\")) {
        text += rest_.front();
      } else if (rest_.starts_with("\\") || rest_.starts_with("\"")) {
        text += rest_.front();
      } else if (rest_.starts_with("n")) {
        text += '\n';
      } else {
        wrong("escape");
      }
    }
    wrong("no end of quotes");
  }
  Family& of(const std::string& name, bool declares) {
    if (name != current_) {
      if (families_.contains(name)) wrong("a family in two pieces");
      if (!declares) wrong("a sample without a declaration");
      current_ = name;
    }
    Family& family = families_[name];
    if (declares && !family.series.empty()) wrong("declared behind its samples");
    return family;
  }
  void sample() {
    const std::string called = name();
    Labels labels;
    if (take("{")) {
      while (!take("}")) {
        const std::string label = name();
        if (!take("=")) wrong("label");
        if (!labels.emplace(label, quoted()).second) wrong("a label twice");
        if (!take(",") && !rest_.starts_with("}")) wrong("labels");
      }
    }
    if (!take(" ")) wrong("no value");
    const std::string number(rest_);
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    if (number.empty() || end != number.c_str() + number.size()) wrong("value");
    const bool part = called != current_ && called.starts_with(current_ + "_");  // of a summary: _sum, _count
    Family& family = of(part ? current_ : called, false);
    if (part && family.type != "summary" && family.type != "histogram") wrong("a sample of another family");
    if (!part && !family.series.emplace(std::move(labels), value).second) wrong("a series twice");
  }

  std::map<std::string, Family, std::less<>> families_;
  std::string current_;
  std::string_view line_, rest_;
};

/// What Prometheus itself thinks of the text.
inline void check_with_promtool(const std::string& text) {
  if (find_program("promtool").empty()) {
    MESSAGE(
        "promtool is missing (Debian package prometheus): the scrape was read by the tests' own parser "
        "only");
    return;
  }
  RunOptions options;
  options.input = text;
  const Output output = run({"promtool", "check", "metrics"}, options);
  INFO(output.out);
  INFO(output.err);
  CHECK(output.code == 0);
  CHECK(output.err.find("registry_") == std::string::npos);
}

}  // namespace rig
