// What a real scrape shows: every metric of the table moves when that happens which it counts, on a real etcd behind a
// gate, with both adapters; and what is logged at which level.
#include <doctest/doctest.h>

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/sync_stream.h>
#include <prometheus/exposer.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "registry/config/follow_settings.hpp"
#include "registry/model/encode.hpp"
#include "registry/observe/prometheus.hpp"
#include "registry/observe/spdlog.hpp"
#include "registry/rpc/resolver.hpp"
#include "registry/rpc/xds_stub.hpp"
#include "registry/store/memory_store.hpp"
#include "rig/raw_etcd.hpp"
#include "rig/scrape.hpp"
#include "rig/temp_dir.hpp"
#include "rig/world.hpp"

using namespace registry;
using namespace rig;
using namespace std::chrono_literals;

namespace {

const std::string service = "user-service";

std::string key(const std::string& id) { return key_of(service, id); }

/// What Prometheus gets.
std::string scraped(const prometheus::Exposer& exposer) {
  return http_get("127.0.0.1:" + std::to_string(exposer.GetListeningPorts().at(0)), "/metrics", 5s);
}

// ---- What makes metrics move

/// Log lines as "level text".
class Lines final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  bool have(const std::string& level, const std::string& text) {
    const std::lock_guard lock(mutex_);
    for (const auto& line : lines_)
      if (line.starts_with(level + " ") && line.find(text) != std::string::npos) return true;
    return false;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    const auto level = spdlog::level::to_string_view(message.level);
    lines_.push_back(std::string(level.data(), level.size()) + " " +
                     std::string(message.payload.data(), message.payload.size()));
  }
  void flush_() override {}
  std::vector<std::string> lines_;
};

/// The default logger of spdlog, for as long as this lives.
class DefaultLogger {
 public:
  explicit DefaultLogger(const std::shared_ptr<Lines>& sink) : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("registry", sink));
    spdlog::default_logger()->set_level(spdlog::level::debug);
  }
  ~DefaultLogger() { spdlog::set_default_logger(before_); }
  DefaultLogger(const DefaultLogger&) = delete;
  DefaultLogger& operator=(const DefaultLogger&) = delete;

 private:
  const std::shared_ptr<spdlog::logger> before_;
};

/// A gRPC client of the control plane that refuses the endpoints it is given.
void refuse_endpoints(const std::string& target) {
  namespace xds = registry::detail::xds;
  using Stream = grpc::ClientReaderWriter<xds::DiscoveryRequest, xds::DiscoveryResponse>;
  const auto channel = grpc::CreateChannel(target, grpc::InsecureChannelCredentials());
  const grpc::internal::RpcMethod method(
      "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
      grpc::internal::RpcMethod::BIDI_STREAMING);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + 10s);
  const std::unique_ptr<Stream> stream(
      grpc::internal::ClientReaderWriterFactory<xds::DiscoveryRequest, xds::DiscoveryResponse>::Create(
          channel.get(), method, &context));
  xds::DiscoveryRequest request;
  request.set_type_url("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment");
  request.add_resource_names(service);
  stream->Write(request);
  xds::DiscoveryResponse response;
  REQUIRE(stream->Read(&response));
  request.set_response_nonce(response.nonce());
  request.mutable_error_detail()->set_message("we do not like them");
  stream->Write(request);
  stream->WritesDone();
  while (stream->Read(&response)) continue;
  stream->Finish();
}

}  // namespace

TEST_CASE("observability: a scrape of the adapter is in the text format, whatever a service is called") {
  const auto numbers = std::make_shared<prometheus::Registry>();
  PrometheusMetrics metrics(numbers);
  prometheus::Exposer exposer("127.0.0.1:0");
  exposer.RegisterCollectable(numbers);
  const std::string odd = "a\"b\\c {d=\"e\"}, # \xc3\xa9";
  for (const Metric& metric : metric::all) metrics.add(metric, odd, 2);
  metrics.set(metric::service_confirmed, "gone", std::nan(""));
  const std::string text = scraped(exposer);
  const Scrape scrape(text);
  for (const Metric& metric : metric::all) {
    CAPTURE(metric.name);
    CHECK(scrape[metric.name].type == (metric.kind == Metric::Kind::Counter ? "counter" : "gauge"));
    CHECK(scrape[metric.name].help == metric.help);
    CHECK(scrape.value(metric, metric.by_service ? Labels{{"service", odd}} : Labels()) == 2);
  }
  CHECK(std::isnan(scrape.value(metric::service_confirmed, {{"service", "gone"}})));
  check_with_promtool(text);
}

TEST_CASE("observability: a scrape that is not in the text format is found out") {
  for (const std::string text :
       {"x_total 1", "x_total 1\n", "# TYPE x counter\nx\n", "# TYPE x counter\nx one\n",
        "# TYPE x counter\nx 1\nx 1\n", "# TYPE x counter\nx{a=\"b} 1\n",
        "# TYPE x counter\nx{a=\"\\d\"} 1\n", "# TYPE x what\nx 1\n",
        "# TYPE x counter\n# TYPE y gauge\ny 1\nx 1\n", "# TYPE x counter\n# TYPE x counter\nx 1\n",
        "# TYPE x counter\nx{a=\"b\",a=\"c\"} 1\n"}) {
    CAPTURE(text);
    CHECK_THROWS(Scrape{text});
  }
  const Scrape scrape("# HELP x What it is\n# TYPE x gauge\nx 1\nx{a=\"b\\\"\\n\",c=\"\"} 2.5e3\n");
  CHECK(scrape["x"].help == "What it is");
  CHECK(scrape["x"].series == std::map<Labels, double>{{{}, 1}, {{{"a", "b\"\n"}, {"c", ""}}, 2500}});
}

TEST_CASE(
    "observability: a name that no service has is no label of the Resolver's, clients may ask for any") {
  auto numbers = std::make_shared<prometheus::Registry>();
  auto metrics = std::make_shared<registry::PrometheusMetrics>(numbers);
  asio::thread_pool pool(1);
  MemoryStore store(pool.get_executor());
  Registry reg(store, quick_config(), Observer(nullptr, metrics));
  Resolver resolver(reg);
  ConnectionOptions at_once;
  at_once.at_least = 0;
  const auto ask = [&](const std::string& name) {
    rig::run(pool, resolver.get_connection(name, grpc::InsecureChannelCredentials(), at_once));
  };
  rig::run(pool, reg.register_instance(instance(service, "user-1"), 30s));
  ask(service);
  ask("no-such-service");
  prometheus::TextSerializer text;
  const Scrape scrape(text.Serialize(numbers->Collect()));
  CHECK(scrape.of_service(metric::resolver_updates, service) == 1);
  CHECK(scrape[metric::resolver_updates.name].sum() == 1);
}

TEST_CASE("observability: each metric of the table moves with what it counts, and a scrape shows it") {
  if (skip_without_etcd()) return;
  const auto lines = std::make_shared<Lines>();
  const DefaultLogger default_logger(lines);
  Etcd server;
  Gate gate(server.endpoint());
  RawEtcd raw({server.endpoint()});
  asio::thread_pool pool(2);
  const auto executor = pool.get_executor();
  const auto config = connector_config(gate.endpoint());
  auto settings = quick_config();
  settings.disappearance_limit = 0.5;
  const std::string address = "127.0.0.1:0";
  const auto began = std::chrono::system_clock::now();

  auto logger = std::make_shared<registry::SpdlogLogger>(spdlog::default_logger());
  auto numbers = std::make_shared<prometheus::Registry>();
  auto metrics = std::make_shared<registry::PrometheusMetrics>(numbers);
  registry::Observer observer(logger, metrics);
  registry::etcd::Connector etcd(executor, config, observer);
  registry::Registry reg(etcd, settings, observer);

  prometheus::Exposer exposer(address);  // such as "0.0.0.0:9464"
  exposer.RegisterCollectable(numbers);  // GET /metrics

  std::optional<Scrape> last;
  const auto scrape = [&]() -> const Scrape& {
    Scrape now(scraped(exposer));
    for (const Metric& metric : metric::all) {
      if (!last || metric.kind != Metric::Kind::Counter) continue;
      for (const auto& [labels, value] : (*last)[metric.name].series)
        CHECK(now.value(metric, labels) >= value);
    }
    return last.emplace(std::move(now));
  };
  const auto becomes = [&](const Metric& metric, double least) {
    return eventually([&] { return scrape().of_service(metric, service) >= least; }, metric.name);
  };
  const Scrape before = scrape();
  CHECK(before.value(metric::registered_instances) == 0);

  // Registrations: one that is kept, and one whose key has no lease, which is nobody's to take.
  rig::run(pool, reg.register_instance(instance(service, "user-1"), 2s));
  const auto foreign = encode(instance(service, "foreign"));
  REQUIRE(raw.put(key("foreign"), foreign));
  CHECK(rig::run(pool, code_of(reg.register_instance(instance(service, "foreign")))) == errc::unleased_key);
  CHECK(scrape().of_service(metric::registrations, service) == 1);
  CHECK(scrape().of_service(metric::registration_failures, service) == 1);
  CHECK(scrape().of_service(metric::registered_instances, service) == 1);

  // A view, changes, and a value that is none.
  const ServiceView view = rig::run(pool, reg.subscribe(service));
  CHECK(scrape().of_service(metric::service_instances, service) == 2);
  REQUIRE(raw.put(key("user-2"), encode(instance(service, "user-2"))));
  REQUIRE(raw.put(key("rubbish"), "{\"id\": %s"));
  REQUIRE(raw.del(key("foreign")));
  CHECK(becomes(metric::watch_events, 2));
  CHECK(becomes(metric::skipped_values, 1));
  CHECK(eventually([&] { return scrape().of_service(metric::service_instances, service) == 2; }));
  const auto since_epoch = [](auto time) {
    return std::chrono::duration<double>(time.time_since_epoch()).count();
  };
  CHECK(scrape().of_service(metric::service_confirmed, service) >= since_epoch(began));
  CHECK(scrape().of_service(metric::service_confirmed, service) <=
        since_epoch(std::chrono::system_clock::now()));

  // gRPC: an update, one that a client refuses, and a host name that nobody knows.
  ResolverConfig listening;
  listening.listen = ":0";
  Resolver resolver(reg, listening);
  rig::run(pool, resolver.get_connection(service, grpc::InsecureChannelCredentials()));
  CHECK(becomes(metric::resolver_updates, 1));
  refuse_endpoints("127.0.0.1:" + std::to_string(resolver.port()));
  CHECK(becomes(metric::resolver_rejections, 1));
  auto nowhere = instance(service, "nowhere");
  nowhere.endpoints = {"grpc://no-such-host.invalid:9001"};
  REQUIRE(raw.put(key("nowhere"), encode(nowhere)));
  CHECK(becomes(metric::resolver_name_failures, 1));

  // The store out of reach, and without the history behind the break when it is back.
  CHECK(becomes(metric::renewals, 1));
  gate.refuse();
  CHECK(becomes(metric::renewal_failures, 1));
  CHECK(becomes(metric::reconnects, 1));
  CHECK(becomes(metric::endpoint_failures, 1));
  REQUIRE(raw.del(key("nowhere")));
  REQUIRE(raw.put(key("user-2"), encode(instance(service, "user-2", "v2"))));
  REQUIRE(raw.compact(raw.revision()));
  gate.accept();
  CHECK(becomes(metric::resyncs, 1));
  CHECK(becomes(metric::registered_instances, 1));
  CHECK(eventually([&] { return scrape().of_service(metric::service_instances, service) == 2; }));

  // Most of the instances vanish at once.
  for (int i = 0; i < 8; ++i) {
    const std::string id = "many-" + std::to_string(i);
    REQUIRE(raw.put(key(id), encode(instance(service, id))));
  }
  CHECK(becomes(metric::service_instances, 10));
  CHECK(server.del_prefix(key("many-")) == 8);
  CHECK(becomes(metric::held_instances, 8));

  // A settings file: a new version, and a broken one.
  const TempDir folder;
  const std::string file = folder / "server.yaml";
  const auto edit = [&](const std::string& yaml) {
    std::ofstream(file + ".new") << yaml;
    std::filesystem::rename(file + ".new", file);
  };
  edit("log_level: info\n");
  {
    Generator<Settings> versions = follow_settings(executor, file, observer);
    CHECK(rig::run(pool, versions.next()).has_value());
    edit("log_level: debug\n");
    CHECK(becomes(metric::configuration_reloads, 1));
    edit("log_level: loud\n");
    CHECK(becomes(metric::configuration_failures, 1));
  }

  const std::string text = scraped(exposer);
  check_with_promtool(text);
  const Scrape after(text);
  for (const Metric& metric : metric::all) {
    CAPTURE(metric.name);
    CHECK(after[metric.name].sum() > before[metric.name].sum());
    CHECK(after[metric.name].help == metric.help);
    for (const auto& [labels, value] : after[metric.name].series)
      CHECK(labels == (metric.by_service ? Labels{{"service", service}} : Labels()));
  }

  CHECK(lines->have("info", " is avoided for a while: "));
  CHECK(lines->have("warning", "skipped the value of \"" + key("rubbish")));
  CHECK(lines->have("warning", "no address for \"no-such-host.invalid\""));
  CHECK(lines->have("warning", "follow \"user-service\": "));
  CHECK(lines->have("warning", "instances vanished at once"));
  CHECK(lines->have("error", "gRPC refused what was published as \"user-service\": \"we do not like them"));

  // What is followed no longer has no size and no age.
  rig::run(pool, resolver.close());
  rig::run(pool, reg.close());
  CHECK(scrape().value(metric::registered_instances) == 0);
  CHECK(std::isnan(scrape().of_service(metric::service_instances, service)));
  CHECK(std::isnan(scrape().of_service(metric::held_instances, service)));
  CHECK(std::isnan(scrape().of_service(metric::service_confirmed, service)));
  pool.join();
}
