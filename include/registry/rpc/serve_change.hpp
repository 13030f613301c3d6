// What a server may change about its registration while it serves.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "registry/async/generator.hpp"
#include "registry/model/instance.hpp"

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
