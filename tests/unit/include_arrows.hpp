// Which header of ours may include what: the layers of the library, bottom to top, and the outside libraries
// of each. A check that reads text only, so that a planted bad file can be given as a string.
#pragma once

#include <cstddef>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace include_arrows {

/// A folder of include/registry, its height, and the beginnings of the outside includes it may have beside
/// the standard library.
struct Layer {
  std::string_view folder;
  int height;
  std::vector<std::string_view> outside;
};

inline const std::vector<Layer>& layers() {
  static const std::vector<Layer> all = {
      {"model", 0, {"boost/json", "boost/system/"}},
      {"policy", 1, {}},
      {"observe", 1, {"spdlog/", "prometheus/"}},
      {"async", 2, {"asio", "grpcpp/"}},
      {"store", 3, {"asio", "boost/json", "boost/system/"}},
      {"etcd", 4, {"asio", "grpcpp/", "google/protobuf/", "registry_etcd_"}},
      {"registration", 4, {"asio"}},
      {"discovery", 4, {"asio", "boost/container/"}},
      {"facade", 5, {"asio"}},
      {"rpc", 6, {"asio", "grpc/", "grpcpp/", "google/protobuf/", "registry_xds_"}},
      {"config", 6, {"asio", "yaml-cpp/"}},
  };
  return all;
}

inline const Layer* find_layer(std::string_view folder) {
  for (const Layer& layer : layers()) {
    if (layer.folder == folder) return &layer;
  }
  return nullptr;
}

/// The folder of "registry/<folder>/..."; empty for a header directly in registry/.
inline std::string_view folder_of(std::string_view path) {
  path.remove_prefix(std::string_view("registry/").size());
  const std::size_t slash = path.find('/');
  return slash == std::string_view::npos ? std::string_view() : path.substr(0, slash);
}

/// Clocks and random numbers: what a decision is given as an argument instead.
inline bool hides_an_input(std::string_view target) {
  for (std::string_view header :
       {"random", "ctime", "time.h", "sys/time.h", "cstdlib", "stdlib.h", "thread", "future"}) {
    if (target == header) return true;
  }
  return false;
}

inline bool starts_with_any(std::string_view text, const std::vector<std::string_view>& beginnings) {
  for (std::string_view beginning : beginnings) {
    if (text.starts_with(beginning)) return true;
  }
  return false;
}

/// What an outside library's include looks like; everything else with no folder (or sys/, netinet/, ...) is
/// the system's.
inline bool is_outside_library(std::string_view target) {
  static const std::vector<std::string_view> libraries = {"asio",      "boost/",    "grpc",    "google/",
                                                          "absl/",     "registry_", "spdlog/", "prometheus/",
                                                          "yaml-cpp/", "doctest"};
  return starts_with_any(target, libraries);
}

/// Why `from` ("registry/policy/claim.hpp") may not include `target`; empty when it may.
inline std::optional<std::string> objection(std::string_view from, std::string_view target) {
  const std::string_view folder = folder_of(from);
  if (folder.empty()) return std::nullopt;  // the umbrella is above everything
  const Layer* layer = find_layer(folder);
  if (layer == nullptr) return "the folder " + std::string(folder) + " is no layer";

  if (!target.starts_with("registry/")) {
    if (folder == "policy" && hides_an_input(target)) return "a policy is given its clock and its draws";
    if (!is_outside_library(target) || starts_with_any(target, layer->outside)) return std::nullopt;
    return std::string(folder) + " may not use this library";
  }

  const std::string_view target_folder = folder_of(target);
  if (target_folder == folder) return std::nullopt;
  if (target_folder.empty()) return "the umbrella is above everything";
  const Layer* below = find_layer(target_folder);
  if (below == nullptr) return "the folder " + std::string(target_folder) + " is no layer";
  if (below->height == layer->height)
    return std::string(folder) + " and " + std::string(target_folder) + " are siblings";
  if (below->height > layer->height) return std::string(target_folder) + " is above " + std::string(folder);
  return std::nullopt;
}

/// The targets of all include lines of a source text, `<...>` and `"..."` alike.
inline std::vector<std::string> includes_of(const std::string& text) {
  std::vector<std::string> targets;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::size_t at = line.find_first_not_of(" \t");
    if (at == std::string::npos || line[at] != '#') continue;
    at = line.find_first_not_of(" \t", at + 1);
    if (at == std::string::npos || line.compare(at, 7, "include") != 0) continue;
    const std::size_t open = line.find_first_of("<\"", at);
    if (open == std::string::npos) continue;
    const std::size_t close = line.find_first_of(">\"", open + 1);
    if (close != std::string::npos) targets.push_back(line.substr(open + 1, close - open - 1));
  }
  return targets;
}

/// One line for each include of `path` ("registry/...") that points up or sideways or to a library it may not
/// use.
inline std::vector<std::string> check(const std::string& path, const std::string& text) {
  std::vector<std::string> found;
  for (const std::string& target : includes_of(text)) {
    if (const auto why = objection(path, target)) found.push_back(path + " includes " + target + ": " + *why);
  }
  return found;
}

}  // namespace include_arrows
