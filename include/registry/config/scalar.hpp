// What the values of a configuration file look like: durations, numbers, variables of the environment, and keys that were
// mistyped.
#pragma once

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/model/endpoint.hpp"
#include "registry/model/text.hpp"

namespace registry::detail {

/// All of `text` as a number without a sign.
template <class Number>
std::optional<Number> parse_number(std::string_view text) {
  Number value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || text.front() == '-' || error != std::errc{} || end != text.data() + text.size()) {
    return std::nullopt;
  }
  return value;
}

/// A whole number and a unit: "500ms", "30s", "5m", "1h".
inline std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  constexpr std::pair<std::string_view, std::int64_t> units[] = {
      {"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}};
  const std::size_t split = std::min(text.find_first_not_of("0123456789"), text.size());
  const auto count = parse_number<std::int64_t>(text.substr(0, split));
  for (const auto& [unit, factor] : units) {
    if (!count || text.substr(split) != unit) continue;
    if (*count > std::numeric_limits<std::int64_t>::max() / factor) return std::nullopt;
    return std::chrono::milliseconds(*count * factor);
  }
  return std::nullopt;
}

/// A text with its variables filled in, or what is wrong with it. Neither tells what a variable holds to anyone but its
/// reader.
struct Expansion {
  std::string text;
  std::string problem;

  Expansion() {}
};

/// `${NAME}` becomes the value of the variable, `$$` becomes `$`; any other `$` stays.
inline Expansion expand_variables(std::string_view raw) {
  Expansion made;
  while (!raw.empty()) {
    const std::size_t dollar = std::min(raw.find('$'), raw.size());
    made.text += raw.substr(0, dollar);
    raw.remove_prefix(dollar);
    if (raw.starts_with("$$")) {
      made.text += '$';
      raw.remove_prefix(2);
    } else if (raw.starts_with("${")) {
      const std::size_t close = raw.find('}');
      const std::string name(raw.substr(2, close == raw.npos ? raw.npos : close - 2));
      const auto odd = [](char c) { return c != '_' && !is_alnum(c); };
      const bool named =
          !name.empty() && !(name[0] >= '0' && name[0] <= '9') && std::none_of(name.begin(), name.end(), odd);
      if (close == raw.npos || !named) {
        made.problem = "a variable is written as ${NAME}, and a plain $ before { as $$";
        return made;
      }
      const char* const value = std::getenv(name.c_str());
      if (value == nullptr) {
        made.problem = "the environment variable " + quote(name) + " is not set";
        return made;
      }
      if (!is_utf8(value)) {
        made.problem = "the environment variable " + quote(name) + " is not valid UTF-8";
        return made;
      }
      made.text += value;
      raw.remove_prefix(close + 1);
    } else if (!raw.empty()) {
      made.text += raw.front();
      raw.remove_prefix(1);
    }
  }
  return made;
}

/// How many characters must be put in, taken out, exchanged, or swapped with their neighbour.
inline std::size_t typing_distance(std::string_view one, std::string_view other) {
  std::vector<std::size_t> before, last(other.size() + 1), row(other.size() + 1);
  std::iota(last.begin(), last.end(), std::size_t{0});
  for (std::size_t i = 1; i <= one.size(); ++i) {
    row[0] = i;
    for (std::size_t j = 1; j <= other.size(); ++j) {
      const bool same = one[i - 1] == other[j - 1];
      row[j] = std::min({last[j] + 1, row[j - 1] + 1, last[j - 1] + (same ? 0 : 1)});
      if (i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1]) {
        row[j] = std::min(row[j], before[j - 2] + 1);
      }
    }
    before = std::exchange(last, row);
  }
  return last.back();
}

/// The one of `known` that was most likely meant; empty if none is near.
inline std::string_view likely_meant(std::string_view typed, const std::vector<std::string_view>& known) {
  std::string_view best;
  std::size_t least = 3;
  for (const std::string_view name : known) {
    const std::size_t distance = typed.size() > 64 ? least : typing_distance(typed, name);
    if (distance >= least || distance * 2 > name.size()) continue;
    best = name;
    least = distance;
  }
  return best;
}

}  // namespace registry::detail
