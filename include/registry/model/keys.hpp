// Where an instance lives in the store: <namespace>/[<group>/]<service>/<id>, and the ranges that cover a
// service or all services.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/model/kv.hpp"

namespace registry {

/// A key taken apart. The views point into the key that was parsed.
struct InstanceKey {
  std::string_view service;  ///< the name of the service
  std::string_view id;       ///< of the instance

  /// These two.
  InstanceKey(std::string_view service_name, std::string_view instance_id)
      : service(service_name), id(instance_id) {}
  friend bool operator==(const InstanceKey&, const InstanceKey&) = default;
};

/// The first key behind all keys that begin with `prefix`. Throws errc::invalid_argument for a prefix that
/// has none (empty, or 0xff bytes only).
inline std::string prefix_end(std::string_view prefix) {
  while (!prefix.empty() && prefix.back() == '\xff') prefix.remove_suffix(1);
  if (prefix.empty()) detail::fail(errc::invalid_argument, "prefix: no key lies behind it");
  std::string end(prefix);
  end.back() = static_cast<char>(static_cast<unsigned char>(end.back()) + 1);
  return end;
}

/// The layout of keys of one Registry. Takes names as they are: see validate.hpp.
///
/// Thread safety: immutable; any number of threads may use one.
class KeyLayout {
 public:
  /// Keys below `<name_space>/`, or below `<name_space>/<group>/` if there is a group.
  explicit KeyLayout(std::string_view name_space = "/genesis/services", std::string_view group = {})
      : root_(name_space) {
    root_ += '/';
    if (!group.empty()) (root_ += group) += '/';
  }

  /// The key of an instance.
  std::string key_of(std::string_view service, std::string_view id) const {
    std::string key = service_prefix(service);
    key += id;
    return key;
  }

  /// All keys below the service; the '/' behind its name keeps "user" apart from "user-admin".
  KeyRange service_range(std::string_view service) const { return range_of(service_prefix(service)); }

  /// All keys of all services.
  KeyRange all_range() const { return range_of(root_); }

  /// The service and the id of a key of this layout. Empty if the key is outside, or not an instance: a
  /// further '/' under a service belongs to somebody else (another group, or data that an application keeps
  /// there).
  std::optional<InstanceKey> parse(std::string_view key) const noexcept {
    if (!key.starts_with(root_)) return std::nullopt;
    key.remove_prefix(root_.size());
    const std::size_t slash = key.find('/');
    if (slash == std::string_view::npos || slash == 0 || slash + 1 == key.size()) return std::nullopt;
    const std::string_view id = key.substr(slash + 1);
    if (id.find('/') != std::string_view::npos) return std::nullopt;
    return InstanceKey(key.substr(0, slash), id);
  }

 private:
  std::string service_prefix(std::string_view service) const {
    std::string prefix = root_;
    prefix += service;
    prefix += '/';
    return prefix;
  }

  static KeyRange range_of(std::string prefix) {
    std::string end = prefix_end(prefix);
    return KeyRange(std::move(prefix), std::move(end));
  }

  std::string root_;  // ends with '/'
};

}  // namespace registry
