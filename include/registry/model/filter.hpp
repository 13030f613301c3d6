// Which instances of a service a reader wants: by version, and by metadata entries that must be there.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "registry/model/instance.hpp"

namespace registry {

/// A condition on instances. The default lets all pass. All conditions must hold:
/// `ServiceFilter{}.version("v1").metadata("zone", "a")`. Setting one again replaces it.
///
/// Thread safety: a value; const members may be called from several threads at once.
class ServiceFilter {
 public:
  ServiceFilter() {}

  /// Only instances of exactly this version. "" means: those that have none.
  ServiceFilter& version(std::string wanted) & {
    version_ = std::move(wanted);
    return *this;
  }
  /// The same, for a temporary.
  ServiceFilter version(std::string wanted) && { return std::move(this->version(std::move(wanted))); }

  /// Only instances with this metadata entry.
  ServiceFilter& metadata(std::string key, std::string value) & {
    metadata_.insert_or_assign(std::move(key), std::move(value));
    return *this;
  }
  /// The same, for a temporary.
  ServiceFilter metadata(std::string key, std::string value) && {
    return std::move(this->metadata(std::move(key), std::move(value)));
  }

  /// Whether the instance passes.
  bool matches(const ServiceInstance& instance) const noexcept {
    if (version_ && instance.version != *version_) return false;
    for (const auto& [key, value] : metadata_) {
      const auto found = instance.metadata.find(key);
      if (found == instance.metadata.end() || found->second != value) return false;
    }
    return true;
  }

  /// Whether everything passes.
  bool any() const noexcept { return !version_ && metadata_.empty(); }

  friend bool operator==(const ServiceFilter&, const ServiceFilter&) = default;

 private:
  std::optional<std::string> version_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace registry
