// The code of docs/configuration.md, run on a MemoryStore and on an etcd that is never asked.
#include <doctest/doctest.h>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "registry/config/follow_settings.hpp"
#include "registry/config/yaml.hpp"
#include "registry/registry.hpp"
#include "rig/run.hpp"
#include "rig/temp_dir.hpp"

using namespace std::chrono_literals;

namespace {

void write(const std::string& file, const std::string& weight) {
  const std::string beside = file + ".new";
  std::ofstream(beside) << "instance:\n  id: user-7\n  name: user-service\n  weight: " << weight
                        << "\n  ttl: 15s\nserver:\n  listen_address: 127.0.0.1:0\n"
                        << "  advertised_host: 10.0.0.5\n";
  std::filesystem::rename(beside, file);
}

}  // namespace

TEST_CASE("configuration: a file makes a Connector, a Registry and the settings of a server") {
  const rig::TempDir folder;
  const std::string file = folder / "service.yaml";
  write(file, "100");
  asio::io_context io;
  const registry::Observer observer;
  // begin: load
  registry::Settings settings = registry::load_settings(file);  // throws with file, line and key
  registry::etcd::Connector etcd(io.get_executor(), settings.etcd, observer);
  registry::Registry reg(etcd, settings.registry, observer);
  registry::ServeConfig config(*settings.instance, settings.server.listen_address);
  config.advertised_host = settings.server.advertised_host;
  config.ttl = settings.ttl;
  // end: load
  registry::validate(config);
  CHECK(config.instance.id == "user-7");
  CHECK(config.ttl == 15s);
}

TEST_CASE("configuration: a followed file yields each new valid version") {
  const rig::TempDir folder;
  const std::string file = folder / "service.yaml";
  write(file, "100");
  asio::io_context io;
  std::vector<std::uint32_t> weights;
  const auto apply = [&](const registry::Settings& settings) {
    weights.push_back(settings.instance->weight());
    if (weights.size() == 1) write(file, "heavy"), write(file, "50");
  };
  const registry::Observer observer;
  const auto follow = [&]() -> asio::awaitable<void> {
    // begin: follow
    auto versions =
        registry::follow_settings(io.get_executor(), file, observer);  // throws if it is not valid now
    while (auto settings = co_await versions.next()) {  // first what is there, then each new valid version
      apply(*settings);
    }
    // end: follow
  };
  asio::co_spawn(io, follow(), [](std::exception_ptr error) { CHECK(error == nullptr); });
  rig::run(io, rig::until([&] { return weights.size() == 2; }));
  CHECK(weights == std::vector<std::uint32_t>{100, 50});
}
