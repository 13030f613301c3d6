// Stored pairs to instances. What is not an instance is skipped: it must never fail a list or a process.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>

#include "registry/model/decode.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/keys.hpp"
#include "registry/model/kv.hpp"
#include "registry/model/text.hpp"
#include "registry/observe/observer.hpp"

namespace registry::detail {

/// Not thread-safe. Bad values are counted (`registry_skipped_values_total`) and logged, at most ten lines in
/// ten seconds.
class ValueReader {
 public:
  ValueReader(KeyLayout layout, Observer observer)
      : layout_(std::move(layout)), observer_(std::move(observer)) {}

  /// The instance of a pair; null if its value is bad, or if its key is not that of an instance (which is
  /// nobody's fault).
  std::shared_ptr<const ServiceInstance> read(const KeyValue& pair) {
    const auto key = layout_.parse(pair.key);
    if (!key) return nullptr;
    Decoded decoded = decode(pair.value, key->service, key->id);
    if (decoded) return std::make_shared<const ServiceInstance>(std::move(decoded.instance));
    observer_.count(metric::skipped_values, key->service);
    if (observer_.logs()) log(pair.key, decoded.reason);
    return nullptr;
  }

 private:
  static constexpr std::size_t max_lines = 10;
  static constexpr std::chrono::seconds window{10};

  void log(const std::string& key, const std::string& reason) {
    const auto now = std::chrono::steady_clock::now();
    if (lines_ + unsaid_ == 0 || now - since_ >= window) {
      if (unsaid_ > 0) observer_.log(LogLevel::Warning, std::to_string(unsaid_) + " more bad values skipped");
      lines_ = unsaid_ = 0;
      since_ = now;
    }
    if (lines_ == max_lines) {
      ++unsaid_;
      return;
    }
    ++lines_;
    observer_.log(LogLevel::Warning, "skipped the value of " + quote(key, 200) + ": " + reason);
  }

  KeyLayout layout_;
  Observer observer_;
  std::chrono::steady_clock::time_point since_;
  std::size_t lines_ = 0, unsaid_ = 0;
};

}  // namespace registry::detail
