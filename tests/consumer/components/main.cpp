// One header of each component, and the version: a Registry on the embedded store with settings from YAML, log lines to spdlog
// and metrics to prometheus-cpp.
#include <prometheus/text_serializer.h>
#include <spdlog/spdlog.h>

#include <asio.hpp>
#include <iostream>
#include <memory>
#include <registry/config/yaml.hpp>
#include <registry/observe/prometheus.hpp>
#include <registry/observe/spdlog.hpp>
#include <registry/registry.hpp>
#include <registry/version.hpp>

asio::awaitable<void> come_and_go(registry::Registry& reg, registry::ServiceInstance self) {
  co_await reg.register_instance(self);
  co_await reg.close();
}

int main() try {
  const registry::Settings settings = registry::parse_settings(
      "instance: {name: users, id: u1, endpoints: ['10.0.0.5:80']}\nregistry: {namespace: /mine}\n",
      "main.cpp");
  const auto numbers = std::make_shared<prometheus::Registry>();
  const registry::Observer observer(std::make_shared<registry::SpdlogLogger>(spdlog::default_logger()),
                                    std::make_shared<registry::PrometheusMetrics>(numbers));
  asio::io_context io;
  registry::MemoryStore store(io.get_executor());
  registry::Registry reg(store, settings.registry, observer);
  asio::co_spawn(io, come_and_go(reg, settings.instance.value()), [](std::exception_ptr error) {
    if (error) std::rethrow_exception(error);
  });
  io.run();
  std::cout << prometheus::TextSerializer().Serialize(numbers->Collect());
  std::cout << "registry " << REGISTRY_VERSION_MAJOR << '.' << REGISTRY_VERSION_MINOR << '.'
            << REGISTRY_VERSION_PATCH << '\n';
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
