// The code of docs/observability.md: the adapters on a real etcd, with a real scrape; a Logger and Metrics of one's own.
#include <doctest/doctest.h>
#include <prometheus/exposer.h>
#include <prometheus/registry.h>
#include <spdlog/spdlog.h>

#include <asio/thread_pool.hpp>
#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>

#include "registry/observe/prometheus.hpp"
#include "registry/observe/spdlog.hpp"
#include "registry/registry.hpp"
#include "rig/net.hpp"
#include "rig/world.hpp"

namespace {

// begin: own
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
// end: own

}  // namespace

TEST_CASE("observability docs: the adapters, and what Prometheus reads") {
  if (rig::skip_without_etcd()) return;
  rig::Etcd server;
  asio::thread_pool pool(2);
  const auto executor = pool.get_executor();
  const auto config = rig::connector_config(server.endpoint());
  const auto settings = rig::quick_config();
  const std::string address = "127.0.0.1:0";
  // begin: adapters
  auto logger = std::make_shared<registry::SpdlogLogger>(spdlog::default_logger());
  auto numbers = std::make_shared<prometheus::Registry>();
  auto metrics = std::make_shared<registry::PrometheusMetrics>(numbers);
  registry::Observer observer(logger, metrics);
  registry::etcd::Connector etcd(executor, config, observer);
  registry::Registry reg(etcd, settings, observer);

  prometheus::Exposer exposer(address);  // such as "0.0.0.0:9464"
  exposer.RegisterCollectable(numbers);  // GET /metrics
  // end: adapters
  const auto instance = rig::instance("user-service", "user-1");
  rig::run(pool, reg.register_instance(instance));
  const std::string endpoint = "127.0.0.1:" + std::to_string(exposer.GetListeningPorts().front());
  CHECK(rig::http_get(endpoint, "/metrics").find("registry_registered_instances 1\n") != std::string::npos);
  rig::run(pool, reg.close());
}

TEST_CASE("observability docs: a Logger and Metrics of ten lines are enough") {
  const auto totals = std::make_shared<Totals>();
  const registry::Observer observer(std::make_shared<PlainLogger>(), totals);
  CHECK(observer.logs());
  observer.log(registry::LogLevel::Info, "not shown");
  observer.count(registry::metric::renewals);
  observer.count(registry::metric::watch_events, "user-service", 2);
  observer.count(registry::metric::watch_events, "web-service");
  observer.set(registry::metric::service_instances, "user-service", 3);  // not kept, and no error
  CHECK(totals->totals.size() == 2);
  CHECK(totals->totals["registry_renewals_total"] == 1);
  CHECK(totals->totals["registry_watch_events_total"] == 3);
}
