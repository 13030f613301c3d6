// The adapter for prometheus-cpp: what is declared, what moves, what is shared, and what is ignored.
#include <doctest/doctest.h>

#include <prometheus/gauge.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>

#include <atomic>
#include <cmath>
#include <latch>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <vector>

#include "registry/observe/prometheus.hpp"

using namespace registry;

namespace {

using Labels = std::map<std::string, std::string>;

std::optional<prometheus::MetricFamily> family_of(const prometheus::Registry& target, std::string_view name) {
  for (const prometheus::MetricFamily& family : target.Collect())
    if (family.name == name) return family;
  return std::nullopt;
}

/// Empty when there is no such series.
std::optional<double> value_of(const prometheus::Registry& target, const Metric& metric,
                               const Labels& labels = {}) {
  const auto family = family_of(target, metric.name);
  if (!family) return std::nullopt;
  for (const prometheus::ClientMetric& each : family->metric) {
    Labels found;
    for (const auto& label : each.label) found.emplace(label.name, label.value);
    if (found == labels) return metric.kind == Metric::Kind::Counter ? each.counter.value : each.gauge.value;
  }
  return std::nullopt;
}

Labels of(const std::string& service) { return {{"service", service}}; }

std::string refusal(std::shared_ptr<prometheus::Registry> target, const prometheus::Labels& labels) {
  try {
    PrometheusMetrics metrics(std::move(target), labels);
  } catch (const std::system_error& error) {
    CHECK(error.code() == errc::invalid_argument);
    return error.what();
  }
  return {};
}

}  // namespace

TEST_CASE("prometheus: every metric of the table is declared from the start, with its type and help") {
  const auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(target);
  for (const Metric& metric : metric::all) {
    CAPTURE(metric.name);
    const std::string name(metric.name);
    const bool counter = metric.kind == Metric::Kind::Counter;
    // A family without a series is not shown, but its name is taken.
    if (counter) {
      CHECK_THROWS(prometheus::BuildGauge().Name(name).Register(*target));
    } else {
      CHECK_THROWS(prometheus::BuildCounter().Name(name).Register(*target));
    }
    CHECK(value_of(*target, metric) == (metric.by_service ? std::nullopt : std::optional<double>(0)));
    if (metric.by_service) metrics.add(metric, "user-service", 1);
    const auto family = family_of(*target, name);
    REQUIRE(family);
    CHECK(family->type == (counter ? prometheus::MetricType::Counter : prometheus::MetricType::Gauge));
    CHECK(family->help == metric.help);
    CHECK(family->metric.size() == 1);
  }
}

TEST_CASE("prometheus: counters add up by service, and never go down") {
  const auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(target);
  metrics.add(metric::watch_events, "user-service", 2);
  metrics.add(metric::watch_events, "web-service", 5);
  metrics.add(metric::watch_events, "user-service", 1.5);
  metrics.add(metric::renewals, "", 1);
  for (const double amount :
       {-1.0, 0.0, -std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
    metrics.add(metric::watch_events, "user-service", amount);
    metrics.add(metric::renewals, "", amount);
  }
  metrics.set(metric::renewals, "", 0);  // that is for gauges
  CHECK(value_of(*target, metric::watch_events, of("user-service")) == 3.5);
  CHECK(value_of(*target, metric::watch_events, of("web-service")) == 5);
  CHECK(value_of(*target, metric::renewals) == 1);
}

TEST_CASE("prometheus: gauges are set, and add up where several Registries share one") {
  const auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(target);
  metrics.set(metric::service_instances, "user-service", 7);
  metrics.set(metric::service_instances, "user-service", 3);
  CHECK(value_of(*target, metric::service_instances, of("user-service")) == 3);
  metrics.add(metric::registered_instances, "", 2);
  metrics.add(metric::registered_instances, "", -1);
  CHECK(value_of(*target, metric::registered_instances) == 1);
  metrics.set(metric::service_confirmed, "user-service", std::numeric_limits<double>::quiet_NaN());
  CHECK(std::isnan(value_of(*target, metric::service_confirmed, of("user-service")).value()));
}

TEST_CASE("prometheus: two on one target share the series, unless labels tell them apart") {
  const auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics one(target), other(target), east(target, {{"cluster", "east"}});
  one.add(metric::renewals, "", 1);
  other.add(metric::renewals, "", 2);
  one.add(metric::registered_instances, "", 1);
  other.add(metric::registered_instances, "", 1);
  one.set(metric::service_instances, "user-service", 4);
  other.set(metric::service_instances, "user-service", 5);
  east.set(metric::service_instances, "user-service", 6);
  east.add(metric::renewals, "", 8);
  CHECK(value_of(*target, metric::renewals) == 3);
  CHECK(value_of(*target, metric::registered_instances) == 2);
  CHECK(value_of(*target, metric::service_instances, of("user-service")) == 5);
  CHECK(value_of(*target, metric::renewals, {{"cluster", "east"}}) == 8);
  CHECK(value_of(*target, metric::service_instances, {{"cluster", "east"}, {"service", "user-service"}}) ==
        6);
  CHECK(family_of(*target, metric::renewals.name)->metric.size() == 2);
}

TEST_CASE("prometheus: what cannot be declared is an error at once") {
  const auto target = std::make_shared<prometheus::Registry>();
  CHECK(refusal(target, {{"service", "mine"}}).starts_with("labels = \"service\""));
  CHECK(refusal(nullptr, {}).starts_with("target = null"));
  CHECK_THROWS(PrometheusMetrics(std::make_shared<prometheus::Registry>(), {{"no label", "x"}}));
  const auto taken = std::make_shared<prometheus::Registry>();
  prometheus::BuildGauge().Name(std::string(metric::renewals.name)).Register(*taken);
  CHECK_THROWS(PrometheusMetrics{taken});
}

TEST_CASE("prometheus: what is not in the table is ignored") {
  const auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(target);
  const auto before = target->Collect().size();
  const Metric other{"registry_other_total", Metric::Kind::Counter, true, "Nobody knows"};
  const Metric wrong_kind{metric::renewals.name, Metric::Kind::Gauge, false, "A counter in the table"};
  metrics.add(other, "user-service", 1);
  metrics.set(other, "user-service", 1);
  metrics.add(wrong_kind, "", 1);
  metrics.set(wrong_kind, "", 1);
  CHECK(target->Collect().size() == before);
  CHECK(value_of(*target, metric::renewals) == 0);
}

TEST_CASE("prometheus: a label is kept as it is, and a metric without one takes none") {
  const auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(target);
  const std::string odd = "a\"b\\c {d} \xc3\xa9";
  metrics.add(metric::watch_events, odd, 1);
  metrics.add(metric::renewals, "user-service", 1);
  CHECK(value_of(*target, metric::watch_events, of(odd)) == 1);
  CHECK(value_of(*target, metric::renewals) == 1);
}

TEST_CASE("prometheus: counted by several threads while others scrape, and nothing is lost") {
  auto target = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(target);
  constexpr int threads = 4, rounds = 5000, services = 200;
  std::latch together(threads);
  std::atomic<bool> over = false;
  std::thread scraper([&] {
    double last = 0;
    while (!over) {
      const double now = value_of(*target, metric::renewals).value_or(-1);
      CHECK(now >= last);
      last = now;
    }
  });
  std::vector<std::thread> all;
  for (int t = 0; t < threads; ++t) {
    all.emplace_back([&metrics, &together] {
      together.arrive_and_wait();  // so that they meet at names that are new
      for (int i = 0; i < rounds; ++i) {
        metrics.add(metric::watch_events, "service-" + std::to_string(i % services), 1);
        metrics.add(metric::renewals, "", 1);
        metrics.add(metric::registered_instances, "", i % 2 == 0 ? 1 : -1);
        metrics.set(metric::service_instances, "user-service", i);
      }
    });
  }
  for (std::thread& thread : all) thread.join();
  over = true;
  scraper.join();
  CHECK(value_of(*target, metric::renewals) == threads * rounds);
  CHECK(value_of(*target, metric::registered_instances) == 0);
  for (int i = 0; i < services; ++i)
    CHECK(value_of(*target, metric::watch_events, of("service-" + std::to_string(i))) ==
          threads * rounds / services);
  // It keeps its target.
  const std::weak_ptr<prometheus::Registry> weak = target;
  target.reset();
  metrics.add(metric::renewals, "", 1);
  CHECK(value_of(*weak.lock(), metric::renewals) == threads * rounds + 1);
}
