// An Observer that nobody listens to, and the table of metrics. (tests/docs/observability.cpp has a Logger and a Metrics.)
#include <doctest/doctest.h>

#include <set>
#include <string_view>

#include "registry/observe/observer.hpp"

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
