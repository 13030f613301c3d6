// Metrics of the library in a registry of prometheus-cpp. Needs prometheus-cpp: link registry::prometheus.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/labels.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "registry/model/errors.hpp"
#include "registry/observe/observer.hpp"

namespace registry {

/// Metrics of the library in a prometheus::Registry. Those of observe/metric.hpp are declared from the start:
/// those without a label show 0, those by service show with the first event of a service. A metric that is not
/// in that table is ignored.
///
/// Thread safety: all members may be called from any thread.
///
/// Several of these on one prometheus::Registry share their series: counters and `registry_registered_instances` add up,
/// of the other gauges the last value shows. Labels tell them apart.
class PrometheusMetrics final : public Metrics {
 public:
  /// Keeps `target` alive. `labels` go to every series. Throws `invalid_argument` for the label "service", which is ours,
  /// and what prometheus-cpp throws for a bad label, or if a metric of the same name is there with another type.
  explicit PrometheusMetrics(std::shared_ptr<prometheus::Registry> target,
                             prometheus::Labels labels = prometheus::Labels())
      : target_(std::move(target)), labels_(std::move(labels)) {
    if (!target_) detail::fail(errc::invalid_argument, "target = null: pass a prometheus::Registry");
    if (labels_.count("service") != 0)
      detail::fail(errc::invalid_argument,
                   "labels = \"service\": that is the name of the service, use another");
    for (const Metric& metric : metric::all) {
      if (metric.kind == Metric::Kind::Counter) {
        declare(counters_, prometheus::BuildCounter(), metric);
      } else {
        declare(gauges_, prometheus::BuildGauge(), metric);
      }
    }
  }

  /// Adds to a counter or a gauge; a counter takes no amount below 0.
  void add(const Metric& metric, std::string_view service, double amount) noexcept override {
    try {
      const std::lock_guard lock(mutex_);
      if (metric.kind == Metric::Kind::Gauge) {
        if (auto* const gauge = find(gauges_, metric, service)) gauge->Increment(amount);
      } else if (amount > 0) {
        if (auto* const counter = find(counters_, metric, service)) counter->Increment(amount);
      }
    } catch (...) {
      // Out of memory: this one is not counted.
    }
  }

  /// Sets a gauge; a NaN is shown as such.
  void set(const Metric& metric, std::string_view service, double value) noexcept override {
    try {
      const std::lock_guard lock(mutex_);
      if (auto* const gauge = find(gauges_, metric, service)) gauge->Set(value);
    } catch (...) {
      // Out of memory: it keeps its value.
    }
  }

 private:
  template <class T>
  struct Series {
    explicit Series(prometheus::Family<T>& of) : family(of) {}
    prometheus::Family<T>& family;
    std::map<std::string, T*, std::less<>> by_service;
  };
  template <class T>
  using Table = std::map<std::string_view, Series<T>>;  // by the names in metric::all

  template <class T, class Builder>
  void declare(Table<T>& table, Builder builder, const Metric& metric) {
    auto& family = builder.Name(std::string(metric.name)).Help(std::string(metric.help)).Register(*target_);
    table.emplace(metric.name, Series<T>(family));
    if (!metric.by_service) find(table, metric, "");
  }

  /// Null if it is not in the table.
  template <class T>
  T* find(Table<T>& table, const Metric& metric, std::string_view service) {
    const auto found = table.find(metric.name);
    if (found == table.end()) return nullptr;
    auto& [family, by_service] = found->second;
    if (!metric.by_service) service = {};
    const auto known = by_service.find(service);
    if (known != by_service.end()) return known->second;
    prometheus::Labels labels = labels_;
    if (!service.empty()) labels.emplace("service", service);
    return by_service.emplace(service, &family.Add(labels)).first->second;
  }

  const std::shared_ptr<prometheus::Registry> target_;
  const prometheus::Labels labels_;
  std::mutex mutex_;
  Table<prometheus::Counter> counters_;
  Table<prometheus::Gauge> gauges_;
};

}  // namespace registry
