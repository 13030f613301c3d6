// The keys of a configuration file, to tell which there are.
#pragma once

#include <cstddef>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "registry/config/settings.hpp"

namespace registry::detail {

/// The keys there are: those with a value, and sections.
class KnownKeys {
 public:
  KnownKeys() {
    Settings scratch;
    each_field(scratch, *this);
  }

  bool is_value(const std::string& path) const { return values_.contains(path); }
  bool is_section(const std::string& path) const { return sections_.contains(path); }
  const std::set<std::string>& values() const noexcept { return values_; }

  /// The names in a section ("" for the outermost).
  std::vector<std::string_view> names_in(std::string_view section) const {
    const std::string prefix = section.empty() ? "" : std::string(section) + ".";
    std::vector<std::string_view> names;
    for (const auto* paths : {&values_, &sections_}) {
      for (const std::string_view path : *paths) {
        const bool inside = path.size() > prefix.size() && path.starts_with(prefix);
        if (inside && path.find('.', prefix.size()) == path.npos) names.push_back(path.substr(prefix.size()));
      }
    }
    return names;
  }

  template <class Value>
  void operator()(std::string_view path, const Value&) {
    values_.emplace(path);
    for (std::size_t dot = path.find('.'); dot != path.npos; dot = path.find('.', dot + 1)) {
      sections_.emplace(path.substr(0, dot));
    }
  }
  template <class Section>
  bool section(std::string_view, std::optional<Section>& value) {
    value.emplace();
    return true;
  }
  void entry(std::string_view name, const std::map<std::string, std::string>&) {
    values_.insert("instance." + std::string(name));
  }

 private:
  std::set<std::string> values_, sections_;
};

}  // namespace registry::detail
