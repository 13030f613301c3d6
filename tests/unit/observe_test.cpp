// Logger and Metrics as an application implements them, in the ten lines of docs/observability.md.
#include <doctest/doctest.h>

#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string_view>

#include "registry/observe/observer.hpp"

namespace {

struct PlainLogger final : registry::Logger {
  void log(registry::LogLevel level, std::string_view text) noexcept override {
    if (level < registry::LogLevel::Warning) return;
    std::fprintf(stderr, "%.*s\n", static_cast<int>(text.size()), text.data());
  }
};

struct Totals final : registry::Metrics {
  void add(const registry::Metric& metric, std::string_view, double amount) noexcept override {
    const std::lock_guard lock(mutex);
    totals[metric.name] += amount;  // the names of the table live for ever
  }
  std::mutex mutex;
  std::map<std::string_view, double> totals;
};

}  // namespace

TEST_CASE("observer: a Logger and a Metrics of ten lines are enough") {
  const auto totals = std::make_shared<Totals>();
  const registry::Observer observer(std::make_shared<PlainLogger>(), totals);
  CHECK(observer.logs());
  CHECK(observer.measures());
  observer.log(registry::LogLevel::Info, "not shown");
  observer.count(registry::metric::renewals);
  observer.count(registry::metric::watch_events, "user-service", 2);
  observer.count(registry::metric::watch_events, "web-service");
  observer.set(registry::metric::service_instances, "user-service", 3);  // not kept, and no error
  CHECK(totals->totals.size() == 2);
  CHECK(totals->totals["registry_renewals_total"] == 1);
  CHECK(totals->totals["registry_watch_events_total"] == 3);
}

TEST_CASE("observer: without a Logger and without Metrics nothing happens") {
  const registry::Observer observer;
  CHECK_FALSE(observer.logs());
  CHECK_FALSE(observer.measures());
  observer.log(registry::LogLevel::Error, "nobody listens");
  observer.count(registry::metric::renewals);
  observer.set(registry::metric::service_instances, "user-service", 3);
}

TEST_CASE("observer: the names in the table of metrics are unique") {
  std::set<std::string_view> names;
  for (const registry::Metric& metric : registry::metric::all) CHECK(names.insert(metric.name).second);
}
