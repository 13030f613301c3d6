// What a server may change about its registration while it serves, and how such changes are applied: by one write each,
// without registering again.
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
#include "registry/rpc/serve_config.hpp"

namespace registry {

/// What serve() shall publish from now on: version, metadata (so weight, status, region and zone) and TTL, as a whole
/// and by one write. Id, name, endpoints and listen address cannot change while it serves: a change that names
/// others is refused as a whole, and logged at Warning.
///
/// serve() takes changes from a Generator while it is registered, and ends it when it begins to drain. When several
/// have come the newest counts. A change that the store refuses is logged and forgotten; one that it does not take
/// because it is out of reach is logged and stays wanted. No change, and no end of the generator, ends serving.
/// Each applied change is logged at Info, to ServeConfig::observer like the rest.
///
/// A source of anything else, such as a configuration file that is read again when it changes, becomes one by
/// serve_changes():
///
///     auto changes = registry::serve_changes(std::move(reloads), [&log](const registry::Settings& now) {
///       log->set_level(now.log_level);  // what the program applies itself
///       return registry::ServeChange(*now.instance, now.ttl, now.server.listen_address);
///     });
///     co_await registry::serve(reg, builder, config, std::move(changes));
struct ServeChange {
  /// As it shall be published. Id, name and endpoints: as they are, or empty.
  ServiceInstance instance;
  /// Of the registration. Zero: as it was registered at first.
  std::chrono::seconds ttl{0};
  /// As it is, or empty.
  std::string listen_address;

  ServeChange() {}
  /// A change with these members.
  explicit ServeChange(ServiceInstance who, std::chrono::seconds time = {}, std::string where = {})
      : instance(std::move(who)), ttl(time), listen_address(std::move(where)) {}
};

namespace detail {

/// Another generator's values as changes.
template <class T>
class MappedChanges final : public GeneratorSource<ServeChange> {
 public:
  MappedChanges(Generator<T> source, std::function<ServeChange(const T&)> to_change)
      : source_(std::move(source)), to_change_(std::move(to_change)) {}

  std::optional<ServeChange> try_next() override {
    std::optional<ServeChange> change;
    if (const std::optional<T> value = source_.try_next()) change = to_change_(*value);
    return change;
  }
  bool ended() const override { return source_.ended(); }
  asio::awaitable<void> wait(WaitDeadline deadline) override { return source_.wait(deadline); }
  void cancel() noexcept override { source_ = Generator<T>(); }

 private:
  Generator<T> source_;
  const std::function<ServeChange(const T&)> to_change_;
};

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

}  // namespace detail

/// The values of any generator as changes for serve(). `to_change(const T&)` makes one of each, also of those that are
/// overtaken by newer ones; it is called while serve() is registered, on its executor. When it throws that is
/// logged and the value skipped. Errors: what `source` throws, which serve() logs. Cancellation: as with `source`;
/// destroying the result destroys it.
template <class T, class ToChange>
Generator<ServeChange> serve_changes(Generator<T> source, ToChange to_change) {
  return Generator<ServeChange>(
      std::make_shared<detail::MappedChanges<T>>(std::move(source), std::move(to_change)));
}

}  // namespace registry
