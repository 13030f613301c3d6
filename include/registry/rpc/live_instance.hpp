// The registration of a running server, and how changes are applied to it: by one write each, without registering again.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/cancellation_type.hpp>
#include <asio/this_coro.hpp>
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "registry/async/generator.hpp"
#include "registry/facade/registry.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/registration.hpp"
#include "registry/model/text.hpp"
#include "registry/observe/observer.hpp"
#include "registry/rpc/serve_change.hpp"
#include "registry/rpc/serve_config.hpp"

namespace registry::detail {

/// The registration of a running server: judges changes and remembers what is wanted.
class LiveInstance {
 public:
  LiveInstance(const ServeConfig& config, ServiceInstance registered, const Registration& receipt)
      : observer_(config.observer),
        listen_address_(config.listen_address),
        first_ttl_(config.ttl.count() != 0 ? config.ttl : receipt.ttl),
        instance_(std::move(registered)),
        ttl_(first_ttl_) {}

  /// Why a change cannot be made while serving; empty: it can.
  std::string refusal(const ServeChange& change) const {
    const ServiceInstance& to = change.instance;
    if (!to.id.empty() && to.id != instance_.id) return fixed("id", quote(to.id), quote(instance_.id));
    if (!to.name.empty() && to.name != instance_.name) {
      return fixed("name", quote(to.name), quote(instance_.name));
    }
    if (!to.endpoints.empty() && to.endpoints != instance_.endpoints) {
      return fixed("endpoints", list(to.endpoints), list(instance_.endpoints));
    }
    if (!change.listen_address.empty() && change.listen_address != listen_address_) {
      return fixed("listen_address", quote(change.listen_address), quote(listen_address_));
    }
    return std::string();
  }

  /// What is published with an acceptable change.
  ServiceInstance with(const ServeChange& change) const {
    ServiceInstance changed = instance_;
    changed.version = change.instance.version;
    changed.metadata = change.instance.metadata;
    return changed;
  }

  /// The TTL that an acceptable change brings; zero: none.
  std::chrono::seconds other_ttl(const ServeChange& change) const {
    const auto wanted = change.ttl.count() != 0 ? change.ttl : first_ttl_;
    return wanted == ttl_ ? std::chrono::seconds(0) : wanted;
  }

  /// What an acceptable change makes different, for the log; empty: nothing.
  std::string differences(const ServeChange& change) const {
    std::vector<std::string> all;
    const ServiceInstance& to = change.instance;
    if (to.version != instance_.version) all.push_back("version = " + quote(to.version));
    for (const auto& [key, value] : to.metadata) {
      const auto before = instance_.metadata.find(key);
      const bool same = before != instance_.metadata.end() && before->second == value;
      if (!same) all.push_back("metadata " + quote(key) + " = " + quote(value));
    }
    for (const auto& [key, value] : instance_.metadata) {
      if (!to.metadata.contains(key)) all.push_back("no metadata " + quote(key));
    }
    const auto ttl = other_ttl(change);
    if (ttl.count() != 0) all.push_back("ttl = " + std::to_string(ttl.count()) + " s");
    constexpr std::size_t shown = 8;
    std::string text;
    for (std::size_t i = 0; i < std::min(all.size(), shown); ++i) text += (i == 0 ? "" : ", ") + all[i];
    if (all.size() > shown) text += " and " + std::to_string(all.size() - shown) + " more";
    return text;
  }

  void accept(const ServeChange& change) {
    instance_ = with(change);
    if (const auto ttl = other_ttl(change); ttl.count() != 0) ttl_ = ttl;
  }

  void log(LogLevel level, const std::string& text) const {
    if (observer_.logs()) observer_.log(level, "instance " + quote(instance_.id) + ": " + text);
  }

 private:
  static std::string list(const std::vector<std::string>& texts) {
    std::string all;
    for (const std::string& text : texts) all += (all.empty() ? "" : ", ") + text;
    return quote(all);
  }

  static std::string fixed(const std::string& field, const std::string& wanted, const std::string& now) {
    return field + " = " + wanted + ": it is " + now +
           " for as long as the server runs, restart it to change that";
  }

  const Observer observer_;
  const std::string listen_address_;
  const std::chrono::seconds first_ttl_;
  ServiceInstance instance_;  // as it is, or is wanted by now
  std::chrono::seconds ttl_;
};

/// Makes one change, or says why not. Throws nothing; when it is cancelled the change is made in the background.
inline asio::awaitable<void> apply_change(Registry& registry, LiveInstance& live, ServeChange change) {
  const std::string refusal = live.refusal(change);
  if (!refusal.empty()) {
    live.log(LogLevel::Warning, "nothing of a change is applied: " + refusal);
    co_return;
  }
  const std::string what = live.differences(change);
  if (what.empty()) co_return;
  std::error_code error;
  std::string why;
  try {
    ServiceInstance changed = live.with(change);
    co_await registry.update_instance(std::move(changed), live.other_ttl(change));
  } catch (const std::system_error& failure) {
    error = failure.code();
    why = failure.what();
  }
  const auto state = co_await asio::this_coro::cancellation_state;
  if (state.cancelled() != asio::cancellation_type::none) co_return;
  if (error && !is_retryable(error) && !is_indeterminate(error)) {
    live.log(LogLevel::Warning, "nothing of a change is applied: " + why);
    co_return;
  }
  live.accept(change);
  if (error) {
    live.log(LogLevel::Warning, "not yet changed, until the store takes it: " + what + ": " + why);
  } else {
    live.log(LogLevel::Info, "changed: " + what);
  }
}

/// Applies what comes, until the generator ends or until cancelled.
inline asio::awaitable<bool> follow_changes(Registry& registry, LiveInstance live,
                                            Generator<ServeChange> changes) {
  while (!changes.ended()) {
    std::optional<ServeChange> change;
    std::string error;
    try {
      co_await changes.wait();
      while (auto newer = changes.try_next()) change = std::move(newer);
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    const auto state = co_await asio::this_coro::cancellation_state;
    if (state.cancelled() != asio::cancellation_type::none) break;
    if (!error.empty()) live.log(LogLevel::Warning, "a change cannot be read: " + quote(error, 500));
    if (!change) continue;
    ServeChange newest = std::move(*change);
    co_await apply_change(registry, live, std::move(newest));
  }
  co_return true;
}

}  // namespace registry::detail
