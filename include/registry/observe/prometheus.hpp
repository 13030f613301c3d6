// Metrics of the library in a registry of prometheus-cpp. Needs prometheus-cpp: link registry::prometheus.
#pragma once

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "registry/observe/observer.hpp"

namespace registry {

/// All metrics are there from the start, those without a label with the value 0. Thread-safe.
class PrometheusMetrics final : public Metrics {
 public:
  /// Keeps `target` alive. Throws what prometheus-cpp throws if a metric of the same name is there with another type.
  explicit PrometheusMetrics(std::shared_ptr<prometheus::Registry> target) : target_(std::move(target)) {
    for (const Metric& metric : metric::all) {
      const std::string name(metric.name), help(metric.help);
      if (metric.kind == Metric::Kind::Counter) {
        counters_.emplace(
            metric.name,
            Series<prometheus::Counter>(prometheus::BuildCounter().Name(name).Help(help).Register(*target_)));
        if (!metric.by_service) counters_.at(metric.name).of("");
      } else {
        gauges_.emplace(metric.name, Series<prometheus::Gauge>(
                                         prometheus::BuildGauge().Name(name).Help(help).Register(*target_)));
        if (!metric.by_service) gauges_.at(metric.name).of("");
      }
    }
  }

  void add(const Metric& metric, std::string_view service, double amount) noexcept override {
    try {
      const std::lock_guard lock(mutex_);
      if (metric.kind == Metric::Kind::Counter) {
        counters_.at(metric.name).of(service).Increment(amount);
      } else {
        gauges_.at(metric.name).of(service).Increment(amount);
      }
    } catch (...) {
      // Out of memory: this one is not counted.
    }
  }

  void set(const Metric& metric, std::string_view service, double value) noexcept override {
    try {
      const std::lock_guard lock(mutex_);
      gauges_.at(metric.name).of(service).Set(value);
    } catch (...) {
      // Out of memory: it keeps its value.
    }
  }

 private:
  template <class T>
  class Series {
   public:
    explicit Series(prometheus::Family<T>& family) : family_(&family) {}
    T& of(std::string_view service) {
      const auto known = all_.find(service);
      if (known != all_.end()) return *known->second;
      prometheus::Labels labels;
      if (!service.empty()) labels.emplace("service", service);
      return *all_.emplace(service, &family_->Add(labels)).first->second;
    }

   private:
    prometheus::Family<T>* family_;
    std::map<std::string, T*, std::less<>> all_;
  };

  const std::shared_ptr<prometheus::Registry> target_;
  std::mutex mutex_;
  std::map<std::string_view, Series<prometheus::Counter>> counters_;  // by the names in metric::all
  std::map<std::string_view, Series<prometheus::Gauge>> gauges_;
};

}  // namespace registry
