// From YAML to Settings: every key must be known, every value of its kind, and whatever is wrong is said with its line and
// its key. Needs yaml-cpp.
#pragma once

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "registry/config/complaint.hpp"
#include "registry/config/known_keys.hpp"
#include "registry/config/scalar.hpp"
#include "registry/config/settings.hpp"
#include "registry/config/yaml_text.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/text.hpp"

namespace registry::detail {

/// Reads one text. Each error is `file:line: key = value: what to do`. Values are shown as the file has them, so never
/// what a variable held; a password is not shown at all.
class SettingsReader {
 public:
  SettingsReader(std::string_view text, std::string file) : file_(std::move(file)) {
    const YAML::Node root = parse_yaml(text, file_);
    put("", root, 1);
    index("");
  }

  Settings read() {
    Settings settings;
    each_field(settings, *this);
    try {
      validate(settings);
    } catch (const std::system_error& error) {
      raise_with_line(Problem(error).words);
    }
    return settings;
  }

  // ---- for each_field

  void operator()(std::string_view path, std::string& value) {
    if (find(path)) value = text_of(path);
  }

  void operator()(std::string_view path, std::vector<std::string>& values) {
    const Place* const place = find(path);
    if (!place) return;
    check_kind(path);
    if (!place->node.IsSequence())
      wrong(path, "must be a list, as in [\"10.0.0.1:2379\", \"10.0.0.2:2379\"]");
    values.clear();
    for (const auto& item : place->node) {
      const std::string name = std::string(path) + "[" + std::to_string(values.size()) + "]";
      const YAML::Node node(item);
      Place& put_there = put(name, node, line_of(node, place->line));
      values.push_back(text_of(name));
      if (values.back().find('@') == std::string::npos) continue;
      put_there.shown.clear();  // what stands before the @ may be a password
      wrong(name, "has a user in it: write the address alone; etcd has etcd.username and etcd.password");
    }
  }

  void operator()(std::string_view path, std::map<std::string, std::string>& values) {
    if (!find(path)) return;
    for (const Entry& entry : entries_of(std::string(path))) {
      const std::string name = std::string(path) + "[" + entry.key + "]";
      put(name, entry.node, entry.line).shown_path = std::string(path) + "[" + quote(entry.key) + "]";
      if (is_well_known(entry.key)) wrong(name, "write it as instance." + entry.key);
      values[entry.key] = text_of(name);
    }
  }

  template <class Rep, class Period>
  void operator()(std::string_view path, std::chrono::duration<Rep, Period>& value) {
    const auto text = scalar(path);
    if (!text) return;
    const auto time = parse_duration(*text);
    if (!time && parse_number<double>(*text)) wrong(path, "has no unit: write it as in 500ms, 30s, 5m or 1h");
    if (!time) wrong(path, "write a whole number and a unit, as in 500ms, 30s, 5m or 1h");
    value = std::chrono::duration_cast<std::chrono::duration<Rep, Period>>(*time);
    if (value != *time) wrong(path, "use whole seconds");
  }

  void operator()(std::string_view path, bool& value) {
    const auto text = scalar(path);
    if (!text) return;
    if (*text != "true" && *text != "false") wrong(path, "write true or false");
    value = *text == "true";
  }

  void operator()(std::string_view path, double& value) {
    const auto text = scalar(path);
    if (!text) return;
    const auto number = parse_number<double>(*text);
    if (!number) wrong(path, "write a number, as in 0.5");
    value = *number;
  }

  template <class Choice>
    requires std::is_enum_v<Choice>
  void operator()(std::string_view path, Choice& value) {
    if (const auto text = scalar(path)) value = static_cast<Choice>(choice<Choice>(path, *text));
  }

  template <class Section>
  bool section(std::string_view path, std::optional<Section>& value) {
    if (find(path)) value.emplace();
    return value.has_value();
  }

  void entry(std::string_view name, std::map<std::string, std::string>& metadata) {
    const std::string path = "instance." + std::string(name);
    const auto text = scalar(path);
    if (!text) return;
    const auto weight = parse_number<std::uint32_t>(*text);
    if (name == "weight" && !(weight && *weight <= ServiceInstance::max_weight)) {
      wrong(path, "use a whole number from 0 to " + std::to_string(ServiceInstance::max_weight));
    }
    if (name == "status") choice<InstanceStatus>(path, *text);
    metadata[std::string(name)] = *text;
  }

 private:
  /// A value in the file.
  struct Place {
    YAML::Node node;
    std::size_t line = 0;  // from 1
    std::string shown_path;
    std::string shown;  // as the file has it, quoted; empty: not to be shown
    std::string value;  // with its variables

    Place(const YAML::Node& what, std::size_t where) : node(what), line(where) {}
  };
  struct Entry {
    std::string key;
    YAML::Node node;
    std::size_t line;

    Entry(std::string name, const YAML::Node& what, std::size_t where)
        : key(std::move(name)), node(what), line(where) {}
  };

  /// Assigning a YAML::Node changes the document: they are only ever copied.
  Place& put(const std::string& path, const YAML::Node& node, std::size_t line) {
    Place& place = places_.emplace(path, Place(node, line)).first->second;
    place.shown_path = path;
    return place;
  }

  /// Where a value is; where its key is, if it has nothing to show for itself.
  static std::size_t line_of(const YAML::Node& node, std::size_t otherwise) {
    const bool shows = node.IsScalar() && node.Mark().line >= 0;
    return shows ? static_cast<std::size_t>(node.Mark().line) + 1 : otherwise;
  }

  /// Finds the place of everything in a section, down to the values.
  void index(const std::string& section) {
    for (const Entry& entry : entries_of(section)) {
      const std::string path = section.empty() ? entry.key : section + "." + entry.key;
      const bool is_section = known_.is_section(path);
      const bool dotted = entry.key.find('.') != std::string::npos;
      if (dotted || !(is_section || known_.is_value(path))) unknown(section, entry.key, entry.line);
      put(path, entry.node, entry.line);
      if (is_section) index(path);
    }
  }

  std::vector<Entry> entries_of(const std::string& path) {
    check_kind(path);
    const YAML::Node& map = find(path)->node;
    if (!map.IsMap()) wrong(path, "must be a map of keys and values");
    std::vector<Entry> entries;
    std::set<std::string> seen;
    for (const auto& item : map) {
      const YAML::Node& key = item.first;
      const auto line = static_cast<std::size_t>(std::max(key.Mark().line, 0)) + 1;
      if (!key.IsScalar()) fail_at(file_, line, named(path) + "has a key that is no plain text");
      if (!seen.insert(key.Scalar()).second) {
        fail_at(file_, line, named(path) + "has " + shown_key(key.Scalar()) + " a second time: leave one");
      }
      spend(path, line, key.Scalar().size());
      entries.emplace_back(key.Scalar(), item.second, line_of(item.second, line));
    }
    return entries;
  }

  /// Only its beginning when it is no word: "password:secret" lacks a blank.
  static std::string shown_key(const std::string& key) {
    const auto end =
        std::find_if(key.begin(), key.end(), [](char c) { return !is_alnum(c) && c != '_' && c != '-'; });
    return quote(std::string(key.begin(), end)) + (end == key.end() ? "" : "...");
  }

  [[noreturn]] void unknown(const std::string& section, const std::string& key, std::size_t line) {
    if (key == "<<") {
      fail_at(file_, line,
              named(section) + "has a merge key, <<, which is not understood: write the keys out");
    }
    const auto names = known_.names_in(section);
    const std::string_view meant = likely_meant(key, names);
    std::string advice;
    if (!meant.empty()) {
      advice = "did you mean " + std::string(meant) + "?";
    } else {
      advice = "known here:";
      for (const std::string_view name : names) advice += " " + std::string(name);
    }
    fail_at(file_, line, named(section) + "unknown key " + shown_key(key) + ": " + advice);
  }

  static std::string named(const std::string& section) { return section.empty() ? "" : section + ": "; }

  const Place* find(std::string_view path) const {
    const auto found = places_.find(path);
    return found == places_.end() ? nullptr : &found->second;
  }

  /// Says what is wrong with a value, or with the lack of one.
  [[noreturn]] void wrong(std::string_view path, const std::string& advice) const {
    const Place& place = *find(path);
    const std::string name = path.empty() ? "the file" : place.shown_path;
    const std::string value = place.shown.empty() ? "" : " = " + place.shown;
    fail_at(file_, place.line, name + value + ": " + advice);
  }

  void check_kind(std::string_view path) const {
    const YAML::Node& node = find(path)->node;
    const std::string& tag = node.Tag();
    if (!tag.empty() && tag != "?" && tag != "!") wrong(path, "has a tag: leave it out");
    if (node.IsNull()) wrong(path, "has no value: give it one, or leave the key out");
  }

  /// Aliases make a small file large.
  void spend(std::string_view path, std::size_t line, std::size_t bytes) {
    spent_ += bytes + 16;
    if (spent_ > 16 * max_settings_size) {
      fail_at(file_, line, std::string(path) + ": aliases repeat more than a configuration may hold");
    }
  }

  /// The text of a value, with its variables.
  const std::string& text_of(std::string_view path) {
    Place& place = places_.find(path)->second;
    check_kind(path);
    if (!place.node.IsScalar()) wrong(path, "must be one value, not a list or a map");
    spend(path, place.line, place.node.Scalar().size());
    if (path != "etcd.password") place.shown = quote(place.node.Scalar());
    Expansion expansion = expand_variables(place.node.Scalar());
    if (!expansion.problem.empty()) wrong(path, expansion.problem);
    place.value = std::move(expansion.text);
    return place.value;
  }

  std::optional<std::string> scalar(std::string_view path) {
    return find(path) ? std::optional(text_of(path)) : std::nullopt;
  }

  template <class Choice>
  std::size_t choice(std::string_view path, const std::string& text) const {
    std::string all;
    for (std::size_t i = 0; i < words_of<Choice>.size(); ++i) {
      if (text == words_of<Choice>[i]) return i;
      all += (i == 0 ? "" : ", ") + std::string(words_of<Choice>[i]);
    }
    wrong(path, "use one of: " + all);
  }

  /// From `etcd.endpoints = "10.0.0.1": use host:port`, as validate() says it, to the line of that endpoint.
  [[noreturn]] void raise_with_line(const std::string& words) const {
    const auto complaint = take_apart(words);
    if (!complaint) fail(errc::invalid_argument, file_ + ": " + words);
    const auto& [field, value, advice] = *complaint;
    const std::string path = path_of(field, value);
    if (find(path)) wrong(path, advice);
    // Not in the file, so its default does not go with the rest: the line is that of its section.
    std::string section = path;
    while (!find(section)) section.erase(section.find('.') == section.npos ? 0 : section.rfind('.'));
    const bool nothing = value == "\"\"" || value == "[]" || value == "(none)";
    fail_at(file_, find(section)->line,
            path + " is not set" + (nothing ? "" : " (" + value + ")") + ": " + advice);
  }

  /// The key in the file of a field that validate() names.
  std::string path_of(const std::string& field, const std::string& value) const {
    if (field == "registry.name_space") return std::string(namespace_key);
    if (field == "instance.instance") return "instance";
    std::string list = field == "instance.endpoint" ? "instance.endpoints" : field;
    std::string entry;  // of the metadata, quoted
    if (field == "instance.metadata key") entry = value;
    if (field.starts_with("instance.metadata \"")) entry = field.substr(field.find('"'));
    if (!entry.empty()) list = "instance.metadata";
    for (auto item = places_.lower_bound(list + "["); item != places_.end(); ++item) {
      const auto& [path, place] = *item;
      if (!path.starts_with(list + "[")) break;
      if (entry.empty() ? quote(place.value) == value : place.shown_path == list + "[" + entry + "]")
        return path;
    }
    return list;
  }

  const std::string file_;
  const KnownKeys known_;
  std::map<std::string, Place, std::less<>> places_;
  std::size_t spent_ = 0;
};

}  // namespace registry::detail
