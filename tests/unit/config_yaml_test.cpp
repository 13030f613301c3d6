// Settings from YAML: every key is read, and whatever is wrong is said with its file, its line and its key.
#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "registry/config/yaml.hpp"
#include "rig/seed.hpp"
#include "rig/temp_dir.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {

/// An environment variable for one test.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

Settings parse(std::string_view text) { return parse_settings(text, "service.yaml"); }

/// What is wrong with a text, without the words of the code; empty if nothing is.
std::string problem(std::string_view text) {
  try {
    parse(text);
  } catch (const std::system_error& error) {
    CHECK(error.code() == errc::invalid_argument);
    return detail::Problem(error).words;
  }
  return "";
}

/// "etcd.tls.ca_file" with a value: "{etcd: {tls: {ca_file: value}}}".
std::string yaml_of(std::string path, const std::string& value) {
  std::string text = "{", end = "}";
  for (std::size_t dot; (dot = path.find('.')) != path.npos; path.erase(0, dot + 1)) {
    text += path.substr(0, dot) + ": {";
    end += "}";
  }
  return text + path + ": " + value + end;
}

const std::string instance = "instance:\n  id: user-1\n  name: user-service\n";

}  // namespace

TEST_CASE("config: nothing but the defaults") {
  const Settings settings = parse("{}");
  CHECK(settings == Settings());
  CHECK(changed_fields(settings, Settings()).empty());
  CHECK_FALSE(settings.instance);
  CHECK_FALSE(settings.etcd.tls);
  CHECK(settings.server.listen_address == "0.0.0.0:0");
}

TEST_CASE("config: every key of the list is read, lands in its own field, and no other changes") {
  // Values that are not the defaults, all valid beside the base.
  const std::string base =
      "etcd: {endpoints: [\"a:1\"], username: u}\ninstance: {id: user-1, name: user-service}\n";
  const std::map<std::string, std::string> values = {
      {"etcd.endpoints", "[\"https://10.0.0.9:2379\"]"},
      {"etcd.username", "somebody"},
      {"etcd.password", "secret"},
      {"etcd.tls.ca_file", "/ca.pem"},
      {"etcd.tls.cert_file", "/cert.pem"},
      {"etcd.tls.key_file", "/key.pem"},
      {"etcd.tls.server_name", "etcd.internal"},
      {"etcd.dial_timeout", "4s"},
      {"etcd.request_timeout", "1500ms"},
      {"etcd.ping_interval", "7s"},
      {"etcd.ping_timeout", "2s"},
      {"etcd.auto_sync_interval", "5m"},
      {"registry.namespace", "/other/services"},
      {"registry.group", "blue"},
      {"registry.default_ttl", "1m"},
      {"registry.retry_interval", "2s"},
      {"registry.max_retry_interval", "1h"},
      {"registry.close_timeout", "0s"},
      {"registry.on_conflict", "fail"},
      {"registry.guard_keys", "false"},
      {"registry.last_known_good_folder", "/var/lib/user-service"},
      {"registry.disappearance_limit", "0.5"},
      {"registry.disappearance_hold", "90s"},
      {"instance.id", "user-2"},
      {"instance.name", "other-service"},
      {"instance.version", "1.10"},
      {"instance.metadata", "{team: a}"},
      {"instance.weight", "200"},
      {"instance.status", "draining"},
      {"instance.region", "north"},
      {"instance.zone", "a"},
      {"instance.endpoints", "[\"grpc://10.0.0.5:9001\"]"},
      {"instance.ttl", "15s"},
      {"server.listen_address", "\":9001\""},
      {"server.advertised_host", "10.0.0.5"},
      {"log_level", "debug"},
  };
  const detail::KnownKeys known;
  for (const std::string& path : known.values()) CHECK_MESSAGE(values.contains(path), path);
  CHECK(values.size() == known.values().size());

  for (const auto& [path, value] : values) {
    CAPTURE(path);
    Settings before, after;
    // Straight to the fields: what is valid only with others is judged below.
    const std::string text = yaml_of(path, value);
    detail::SettingsReader reader(text, "service.yaml");
    detail::each_field(after, reader);
    std::vector<std::string> expected = {path};
    if (path.starts_with("etcd.tls")) expected.insert(expected.begin(), "etcd.tls");
    if (path.starts_with("instance")) expected.insert(expected.begin(), "instance");
    std::vector<std::string> changed = changed_fields(before, after);
    // With its section, the keys of the section come into being.
    std::erase_if(changed, [&](const std::string& each) {
      return detail::FieldTexts(after).all().at(each).empty() || each == "instance.ttl";
    });
    if (path == "instance.ttl") changed.push_back(path);
    CHECK(changed == expected);
  }
}

TEST_CASE("config: what is read is what was written") {
  const Settings settings = parse(R"(
etcd:
  endpoints:
    - https://10.0.0.1:2379
    - https://10.0.0.2:2379
  username: user
  password: "a: b # c"
  tls: {ca_file: ca.pem, cert_file: c.pem, key_file: k.pem, server_name: etcd.internal}
  dial_timeout: 4s
  request_timeout: 1500ms
  ping_interval: 1m
  ping_timeout: 2s
  auto_sync_interval: 5m
registry:
  namespace: /other/services
  group: blue
  default_ttl: 20s
  retry_interval: 2s
  max_retry_interval: 1h
  close_timeout: 0s
  on_conflict: fail
  guard_keys: false
  last_known_good_folder: /var/lib/user-service
  disappearance_limit: 0.5
  disappearance_hold: 90s
instance:
  id: user-1
  name: user-service
  version: 1.10
  metadata: {team: a, "odd key": yes, empty: ""}
  weight: 200
  status: disabled
  region: north
  zone: a
  endpoints: [grpc://10.0.0.5:9001]
  ttl: 15s
server:
  listen_address: "[::]:9001"
  advertised_host: "fd00::5"
log_level: warning
)");
  CHECK(settings.etcd.endpoints ==
        std::vector<std::string>{"https://10.0.0.1:2379", "https://10.0.0.2:2379"});
  CHECK(settings.etcd.username == "user");
  CHECK(settings.etcd.password == "a: b # c");
  REQUIRE(settings.etcd.tls);
  CHECK(settings.etcd.tls->ca_file == "ca.pem");
  CHECK(settings.etcd.tls->cert_file == "c.pem");
  CHECK(settings.etcd.tls->key_file == "k.pem");
  CHECK(settings.etcd.tls->server_name == "etcd.internal");
  CHECK(settings.etcd.dial_timeout == 4s);
  CHECK(settings.etcd.request_timeout == 1500ms);
  CHECK(settings.etcd.ping_interval == 60s);
  CHECK(settings.etcd.ping_timeout == 2s);
  CHECK(settings.etcd.auto_sync_interval == 300s);
  CHECK(settings.registry.name_space == "/other/services");
  CHECK(settings.registry.group == "blue");
  CHECK(settings.registry.default_ttl == 20s);
  CHECK(settings.registry.retry_interval == 2s);
  CHECK(settings.registry.max_retry_interval == 3600s);
  CHECK(settings.registry.close_timeout == 0s);
  CHECK(settings.registry.on_conflict == ConflictPolicy::Fail);
  CHECK_FALSE(settings.registry.guard_keys);
  CHECK(settings.registry.last_known_good_folder == "/var/lib/user-service");
  CHECK(settings.registry.disappearance_limit == 0.5);
  CHECK(settings.registry.disappearance_hold == 90s);
  REQUIRE(settings.instance);
  ServiceInstance expected("user-service", "user-1");
  expected.version = "1.10";
  expected.metadata = {{"team", "a"},          {"odd key", "yes"},  {"empty", ""}, {"weight", "200"},
                       {"status", "disabled"}, {"region", "north"}, {"zone", "a"}};
  expected.endpoints = {"grpc://10.0.0.5:9001"};
  CHECK(*settings.instance == expected);
  CHECK(settings.ttl == 15s);
  CHECK(settings.server.listen_address == "[::]:9001");
  CHECK(settings.server.advertised_host == "fd00::5");
  CHECK(settings.log_level == LogLevel::Warning);
}

TEST_CASE("config: a new member of a configuration needs a key") {
  // Whoever adds one sees this fail to compile: name it in each_field() (config/settings.hpp), in docs/configuration.md,
  // in the two tests above, and here.
  const Settings settings = parse(instance + "etcd: {tls: {}}");
  const auto& [etcd, registry, self, ttl, server, log_level] = settings;
  const auto& [endpoints, dial, request, username, password, tls, ping, pong, sync] = etcd;
  [[maybe_unused]] const auto& [ca, cert, key, server_name] = *tls;
  [[maybe_unused]] const auto& [space, group, default_ttl, retry, max_retry, close, conflict, guard, folder,
                                limit, hold] = registry;
  [[maybe_unused]] const auto& [id, name, version, metadata, addresses] = *self;
  const auto& [listen, host] = server;
  CHECK(&host == &settings.server.advertised_host);
}

TEST_CASE("config: what is wrong is said with its line and its key") {
  struct Case {
    std::string text, says;
  };
  const std::vector<Case> cases = {
      // Not YAML, or not one document.
      {"", "1: is empty: write {} if you want nothing but the defaults"},
      {"# only words\n\n", "1: is empty: write {} if you want nothing but the defaults"},
      {"etcd:\n  username: a\n  password:b\n  group: c\n", "4: column 8: is not YAML: illegal map value"},
      {"etcd:\n  endpoints: [\"a:1\"\nlog_level: info\n",
       "3: column 1: is not YAML: end of sequence flow not found"},
      {"etcd:\n  password: \"a\\qb\"\n", "2: column 17: is not YAML: unknown escape character"},
      {"log_level: info\n---\nlog_level: debug\n", "2: a second document begins here: use one"},
      {"{log_level: info} {log_level: debug}", "1: a second document begins here: use one"},
      {"- a\n", "1: the file: must be a map of keys and values"},
      {"just words\n", "1: the file: must be a map of keys and values"},
      {"log_level: info\netcd:\n  username: a\x04\n", "3: has a control character: leave it out"},
      {"log_level: info\n# \xff\n", "2: is not valid UTF-8"},
      // Keys.
      {"log_level: info\netcd:\n  endpoint: [\"a:1\"]\n",
       "3: etcd: unknown key \"endpoint\": did you mean endpoints?"},
      {"registry:\n  name_space: /a\n", "2: registry: unknown key \"name_space\": did you mean namespace?"},
      {"instanec:\n  id: a\n", "1: unknown key \"instanec\": did you mean instance?"},
      {"etcd:\n  tls:\n    certificate: a\n",
       "3: etcd.tls: unknown key \"certificate\": known here: ca_file cert_file key_file server_name"},
      {"endpoints: []\n",
       "1: unknown key \"endpoints\": known here: log_level etcd instance registry server"},
      {"etcd.username: a\n",
       "1: unknown key \"etcd\"...: known here: log_level etcd instance registry server"},
      {"etcd:\n  tls.ca_file: a\n",
       "2: etcd: unknown key \"tls\"...: known here: auto_sync_interval dial_timeout endpoints password "
       "ping_interval ping_timeout request_timeout username tls"},
      {"etcd: &e {username: a}\nserver:\n  <<: *e\n",
       "3: server: has a merge key, <<, which is not understood: write the keys out"},
      {"etcd:\n  username: a\n  dial_timeout: 1s\n  username: b\n",
       "4: etcd: has \"username\" a second time: leave one"},
      {"log_level: info\nlog_level: info\n", "2: has \"log_level\" a second time: leave one"},
      {instance + "  metadata:\n    a: 1\n    a: 1\n",
       "6: instance.metadata: has \"a\" a second time: leave one"},
      {"etcd:\n  ? [a]\n  : b\n", "2: etcd: has a key that is no plain text"},
      // Kinds.
      {"etcd:\n", "1: etcd: has no value: give it one, or leave the key out"},
      {"etcd:\n  username: ~\n", "2: etcd.username: has no value: give it one, or leave the key out"},
      {"etcd:\n  username:\n\n\nserver: {}\n",
       "2: etcd.username: has no value: give it one, or leave the key out"},
      {"etcd: 10.0.0.1:2379\n", "1: etcd: must be a map of keys and values"},
      {"etcd:\n  username: [a]\n", "2: etcd.username: must be one value, not a list or a map"},
      {"etcd:\n  endpoints: a:1\n",
       "2: etcd.endpoints: must be a list, as in [\"10.0.0.1:2379\", \"10.0.0.2:2379\"]"},
      {"etcd:\n  endpoints:\n    - a:1\n    - {a: 1}\n",
       "2: etcd.endpoints[1]: must be one value, not a list or a map"},
      {"etcd:\n  username: !secret a\n", "2: etcd.username: has a tag: leave it out"},
      {instance + "  metadata: [a]\n", "4: instance.metadata: must be a map of keys and values"},
      {instance + "  metadata:\n    a: {}\n",
       "5: instance.metadata[\"a\"]: must be one value, not a list or a map"},
      {instance + "  metadata:\n    zone: a\n", "5: instance.metadata[\"zone\"]: write it as instance.zone"},
      {"etcd:\n  dial_timeout: 30\n",
       "2: etcd.dial_timeout = \"30\": has no unit: write it as in 500ms, 30s, 5m or 1h"},
      {"etcd:\n  dial_timeout: 1.5s\n",
       "2: etcd.dial_timeout = \"1.5s\": write a whole number and a unit, as in 500ms, 30s, 5m or 1h"},
      {"registry:\n  default_ttl: 1500ms\n", "2: registry.default_ttl = \"1500ms\": use whole seconds"},
      {"registry:\n  guard_keys: yes\n", "2: registry.guard_keys = \"yes\": write true or false"},
      {"registry:\n  disappearance_limit: half\n",
       "2: registry.disappearance_limit = \"half\": write a number, as in 0.5"},
      {"registry:\n  on_conflict: take-over\n",
       "2: registry.on_conflict = \"take-over\": use one of: take_over, fail"},
      {"log_level: warn\n", "1: log_level = \"warn\": use one of: debug, info, warning, error"},
      {instance + "  weight: 70000\n", "4: instance.weight = \"70000\": use a whole number from 0 to 65535"},
      {instance + "  weight: -1\n", "4: instance.weight = \"-1\": use a whole number from 0 to 65535"},
      {instance + "  status: off\n", "4: instance.status = \"off\": use one of: up, disabled, draining"},
      // What the library's own checks say.
      {"etcd:\n  endpoints:\n    - 10.0.0.2:2379\n    - 10.0.0.1\n",
       "4: etcd.endpoints[1] = \"10.0.0.1\": use host:port, http://host:port or https://host:port"},
      {"etcd:\n  endpoints: []\n", "2: etcd.endpoints: name at least one, such as \"127.0.0.1:2379\""},
      {"etcd:\n  endpoints: [\"https://a:1\"]\n",
       "2: etcd.endpoints[0] = \"https://a:1\": wants TLS: set tls, if only to Tls() for the system's "
       "authorities"},
      {"etcd:\n  dial_timeout: 48h\n",
       "2: etcd.dial_timeout = \"48h\": use a value between 1 ms and 24 hours"},
      {"etcd:\n  ping_interval: 1s\n",
       "2: etcd.ping_interval = \"1s\": use a value between 6000 ms and 24 hours"},
      {"etcd:\n  auto_sync_interval: 1ms\n",
       "2: etcd.auto_sync_interval = \"1ms\": use a value between 1000 ms and 24 hours"},
      {"log_level: info\netcd:\n  dial_timeout: 1s\n  password: secret\n",
       "2: etcd.username is not set: is empty but a password is set"},
      {"etcd:\n  tls:\n    ca_file: a\n    cert_file: b\n",
       "4: etcd.tls.cert_file = \"b\": needs tls.key_file, and the other way round"},
      {"etcd:\n  tls:\n    key_file: b\n",
       "2: etcd.tls.cert_file is not set: needs tls.key_file, and the other way round"},
      {"registry:\n  namespace: services\n",
       "2: registry.namespace = \"services\": must begin with '/' and name at least one level, as "
       "/genesis/services"},
      {"registry:\n  group: a/b\n", "2: registry.group = \"a/b\": must not contain '/'"},
      {"registry:\n  default_ttl: 0s\n", "2: registry.default_ttl = \"0s\": use at least 1 s"},
      {"registry:\n  group: a\n  retry_interval: 1m\n",
       "1: registry.max_retry_interval is not set (30000 ms): use at least retry_interval and at most 24 h"},
      {"registry:\n  disappearance_limit: 1.5\n",
       "2: registry.disappearance_limit = \"1.5\": use a share from 0 to 1"},
      {"log_level: info\ninstance:\n  name: a\n", "2: instance.id is not set: must not be empty"},
      {"instance:\n  id: a/b\n  name: a\n", "2: instance.id = \"a/b\": must not contain '/'"},
      {instance + "  metadata:\n    \"\": a\n", "5: instance.metadata[\"\"] = \"a\": must not be empty"},
      {instance + "  metadata:\n    x: y\n    \"a = \\\"b\\\": \\t\": c\n",
       "6: instance.metadata[\"a = \\\"b\\\": \\x09\"] = \"c\": leave control characters out"},
      {instance + "  metadata:\n    " + std::string(100, 'x') + ": a\n    " + std::string(100, 'x') +
           "y: \"\\xff\"\n" + "    " + std::string(256, 'z') + ": a\n",
       "7: instance.metadata[\"" + std::string(80, 'z') +
           "\"... (256 bytes)] = \"a\": use at most 255 bytes"},
      {instance + "  endpoints:\n  - grpc://a:1\n  - grpc://a\n",
       "6: instance.endpoints[1] = \"grpc://a\": use grpc://host:port, http://host:port, https://host:port, "
       "tcp://host:port or host:port with a port from 1 to 65535, and brackets around an IPv6 address"},
      {instance + "  endpoints: [\"grpc://0.0.0.0:1\"]\n",
       "4: instance.endpoints[0] = \"grpc://0.0.0.0:1\": is a wildcard, which nobody can connect to: name "
       "one "
       "address"},
      {instance + "server:\n  listen_address: \"\"\n",
       "1: instance.endpoints is not set: name at least one, or where to listen in server.listen_address"},
      {instance + "  ttl: 9999999999s\n", "4: instance.ttl = \"9999999999s\": use at most 9000000000 s"},
      {"server:\n  listen_address: \"9001\"\n",
       "2: server.listen_address = \"9001\": use host:port, [v6]:port or :port; port 0 for any"},
      {"server:\n  advertised_host: 0.0.0.0\n",
       "2: server.advertised_host = \"0.0.0.0\": is a wildcard, which nobody can connect to: name one "
       "address"},
      {"server:\n  advertised_host: 10.0.0.1:9001\n",
       "2: server.advertised_host = \"10.0.0.1:9001\": use a host name or an address, without a port"},
  };
  for (const auto& [text, says] : cases) {
    CAPTURE(text);
    CHECK(problem(text) == "service.yaml:" + says);
  }
}

TEST_CASE("config: durations have a unit") {
  using detail::parse_duration;
  CHECK(parse_duration("500ms") == 500ms);
  CHECK(parse_duration("0s") == 0s);
  CHECK(parse_duration("30s") == 30s);
  CHECK(parse_duration("5m") == 5min);
  CHECK(parse_duration("24h") == 24h);
  for (const char* bad : {"", "s", "5", "-5s", "+5s", "1.5s", "5 s", "5S", "5sec", "1m30s", " 5s",
                          "9223372036854775807h", "99999999999999999999s"}) {
    CHECK_MESSAGE(parse_duration(bad) == std::nullopt, bad);
  }
}

TEST_CASE("config: the nearest key is named, but only a near one") {
  const std::vector<std::string_view> known = {"endpoints", "username", "id", "tls"};
  CHECK(detail::likely_meant("endpoint", known) == "endpoints");
  CHECK(detail::likely_meant("usrename", known) == "username");
  CHECK(detail::likely_meant("di", known) == "id");
  CHECK(detail::likely_meant("xy", known).empty());
  CHECK(detail::likely_meant("certificate", known).empty());
  CHECK(detail::likely_meant(std::string(100'000, 'a'), known).empty());
}

TEST_CASE("config: aliases stand for what they name") {
  const Settings settings = parse(
      "etcd:\n  dial_timeout: &short 2s\n  request_timeout: *short\ninstance: &i\n  id: a\n  name: a\n");
  CHECK(settings.etcd.request_timeout == 2s);
  CHECK(problem("etcd:\n  endpoints: &e [\"a:1\", b]\ninstance: {id: a, name: a, endpoints: *e}\n") ==
        "service.yaml:2: etcd.endpoints[1] = \"b\": use host:port, http://host:port or https://host:port");
}

TEST_CASE("config: variables of the environment are filled in") {
  const Variable password("CONFIG_TEST_PASSWORD", "p$$w: #\"x");
  const Variable pod("CONFIG_TEST_POD", "7");
  const Settings settings = parse(
      "etcd:\n  username: user-${CONFIG_TEST_POD}${CONFIG_TEST_POD}\n  password: ${CONFIG_TEST_PASSWORD}\n"
      "instance:\n  id: ${CONFIG_TEST_POD}\n  name: a\n  metadata:\n    price: $$5 $6 $${X} $\n");
  CHECK(settings.etcd.username == "user-77");
  CHECK(settings.etcd.password == "p$$w: #\"x");
  CHECK(settings.instance->id == "7");
  CHECK(settings.instance->metadata.at("price") == "$5 $6 ${X} $");

  CHECK(problem("etcd:\n  username: a\n  password: x${CONFIG_TEST_NONE}\n") ==
        "service.yaml:3: etcd.password: the environment variable \"CONFIG_TEST_NONE\" is not set");
  CHECK(problem("log_level: ${CONFIG_TEST_NONE}\n") ==
        "service.yaml:1: log_level = \"${CONFIG_TEST_NONE}\": the environment variable \"CONFIG_TEST_NONE\" "
        "is not set");
  for (const char* bad : {"${", "${}", "${A", "${1}", "${A-B}", "${A}${"}) {
    CAPTURE(bad);
    const Variable a("A", "a");
    CHECK(problem("etcd:\n  username: \"" + std::string(bad) + "\"\n").find("written as ${NAME}") !=
          std::string::npos);
  }
}

TEST_CASE("config: no error tells a secret") {
  const Variable secret("CONFIG_TEST_SECRET", "hunter2");
  const Variable binary("CONFIG_TEST_BINARY", "hunter2\xff");
  const std::vector<std::string> texts = {
      // The value of a variable, in whatever key it is wrong.
      "etcd:\n  endpoints: [\"${CONFIG_TEST_SECRET}\"]\n",
      "etcd:\n  dial_timeout: ${CONFIG_TEST_SECRET}\n",
      "etcd:\n  username: ${CONFIG_TEST_BINARY}\n",
      "registry:\n  namespace: ${CONFIG_TEST_SECRET}\n",
      "registry:\n  on_conflict: ${CONFIG_TEST_SECRET}\n",
      "registry:\n  guard_keys: ${CONFIG_TEST_SECRET}\n",
      "registry:\n  disappearance_limit: ${CONFIG_TEST_SECRET}\n",
      "instance:\n  name: a\n  id: a/${CONFIG_TEST_SECRET}\n",
      instance + "  weight: ${CONFIG_TEST_SECRET}\n",
      instance + "  endpoints: [\"grpc://${CONFIG_TEST_SECRET}\"]\n",
      instance + "  metadata:\n    \"\": ${CONFIG_TEST_SECRET}\n",
      "server:\n  listen_address: ${CONFIG_TEST_SECRET}\n",
      "server:\n  advertised_host: \"${CONFIG_TEST_SECRET}:1\"\n",
      // A password in the file, however the file is broken.
      "etcd:\n  password: hunter2\n",
      "etcd:\n  password: [hunter2]\n",
      "etcd:\n  password: {hunter2: a}\n",
      "etcd:\n  password: !hunter2 a\n",
      "etcd:\n  password: *hunter2\n",
      "etcd:\n  password: \"\\hunter2\"\n",
      "etcd:\n  password: 'hunter2\n",
      "etcd:\n  password:hunter2\n",
      "etcd: {password:hunter2}\n",
      "etcd: \"password: hunter2\"\n",
      "etcd:\n  password: hunter2\n  password: hunter2\n",
      "etcd:\n  endpoints: [\"http://root:hunter2@10.0.0.1:2379\"]\n",
  };
  for (const std::string& text : texts) {
    CAPTURE(text);
    const std::string says = problem(text);
    CHECK(says.starts_with("service.yaml:"));
    CHECK(says.find("unter2") == std::string::npos);
  }
}

TEST_CASE("config: hostile texts are refused, and soon") {
  constexpr std::size_t size = detail::max_settings_size;
  const auto repeat = [](const std::string& unit, std::size_t bytes) {
    std::string text;
    while (text.size() + unit.size() <= bytes) text += unit;
    return text;
  };
  for (const char* unit :
       {"[", "{",   "- ",   "? ", "{a: ", "[a,",   "{? ", "&a [", "\"", "'", ",", "&a ",       "*a ",
        "!", "a\n", "a:\n", "[]", "{}",   "---\n", "|\n", "%",    "}",  "]", ":", "a: &b [*b,"}) {
    CAPTURE(unit);
    CHECK_FALSE(problem(repeat(unit, size / 4)).empty());
  }
  CHECK_FALSE(problem("," + instance).empty());  // yaml-cpp finds documents without end behind it
  CHECK(problem(repeat("[", size)) == "service.yaml:1: nests too deep");
  CHECK(problem(repeat("[", 1000)) == "service.yaml:1: nests too deep");
  CHECK(problem(repeat("- ", 2000)) == "service.yaml:1: nests too deep");
  std::string stairs;
  for (int i = 0; i < 600; ++i) stairs += std::string(static_cast<std::size_t>(i), ' ') + "a:\n";
  CHECK(problem(stairs).find("nests too deep") != std::string::npos);
  CHECK(problem(std::string(size + 1, ' ')) ==
        "service.yaml: holds more than 262144 bytes, which no configuration does");
  // Text that is small but stands for gigabytes.
  CHECK(problem("etcd:\n  username: &a " + std::string(size / 2, 'x') + "\n  endpoints: [" +
                repeat("*a,", size / 3) + "]\n")
            .find("aliases repeat") != std::string::npos);
  CHECK_FALSE(problem("etcd: &e\n  endpoints: *e\n").empty());
  CHECK_FALSE(problem("etcd: &e\n  tls: *e\n").empty());
  // A valid one of the full size is read.
  std::string large = instance + "  metadata:\n";
  for (int i = 0; i < 1000; ++i) large += "    key" + std::to_string(i) + ": " + std::string(200, 'v') + "\n";
  CHECK(parse(large + "#" + std::string(size - large.size() - 1, ' ')).instance->metadata.size() == 1000);
}

TEST_CASE("config: a random edit of a good text never does more than throw") {
  const std::string good = instance +
                           "  metadata: {a: b}\netcd:\n  endpoints: [\"a:1\"]\n  tls: &t {}\n"
                           "server:\n  listen_address: \"[::]:1\"\nlog_level: \"info\"\n";
  std::mt19937_64 draw(rig::test_seed("config"));
  const std::string bits = " \n\t:-[]{}*&!|>'\"%#?,~$x1.\r\xc3";
  int valid = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string text = good;
    for (std::uint32_t edits = draw() % 4 + 1; edits > 0; --edits) {
      const std::size_t at = draw() % text.size();
      if (draw() % 3 == 0) {
        text.erase(at, draw() % 4);
      } else {
        text.insert(at, 1, bits[draw() % bits.size()]);
      }
      if (text.empty()) text = "{}";
    }
    CAPTURE(text);
    const std::string says = problem(text);
    valid += says.empty() ? 1 : 0;
    CHECK((says.empty() || says.starts_with("service.yaml:")));
  }
  CHECK(valid > 0);
}

TEST_CASE("config: files") {
  const rig::TempDir folder;
  const std::string file = folder / "service.yaml";
  try {
    load_settings(file);
    FAIL("there is no file");
  } catch (const std::system_error& error) {
    CHECK(error.code() == std::errc::no_such_file_or_directory);
    CHECK(std::string(error.what()).find(file) != std::string::npos);
  }
  CHECK_THROWS_AS(load_settings(folder.path()), std::system_error);
  REQUIRE(::mkfifo((folder / "pipe").c_str(), 0600) == 0);
  CHECK_THROWS_AS(load_settings(folder / "pipe"), std::system_error);

  std::ofstream(file) << "\xEF\xBB\xBFlog_level: debug\r\nserver:\r\n  listen_address: \":1\"\r\n";
  CHECK(load_settings(file).log_level == LogLevel::Debug);
  CHECK(load_settings(file).server.listen_address == ":1");
  std::ofstream(file) << "log_level: loud\n";
  try {
    load_settings(file);
    FAIL("the file is wrong");
  } catch (const std::system_error& error) {
    CHECK(std::string(error.what()).starts_with(file + ":1: log_level = \"loud\": use one of"));
  }
  std::ofstream(file) << std::string(detail::max_settings_size + 1, '#');
  CHECK_THROWS_WITH_AS(load_settings(file), doctest::Contains("262144"), std::system_error);
}

TEST_CASE("config: what differs is named, without values") {
  const Settings one = parse(instance + "  weight: 1\n  metadata: {a: x, b: y}\n");
  const Settings other = parse(instance + "  weight: 2\n  metadata: {a: xb, b: y}\netcd: {tls: {}}\n");
  CHECK(changed_fields(one, other) ==
        std::vector<std::string>{"etcd.tls", "etcd.tls.ca_file", "etcd.tls.cert_file", "etcd.tls.key_file",
                                 "etcd.tls.server_name", "instance.metadata", "instance.weight"});
  CHECK(one != other);
  CHECK(one == parse("# other words\n" + instance + "  metadata: {b: 'y', a: \"x\"}\n  weight: 1\n"));
}

TEST_CASE("config: long metadata keys that begin alike are two") {
  const std::string key(200, 'k');
  const Settings settings = parse(instance + "  metadata:\n    " + key + "1: a\n    " + key + "2: b\n");
  CHECK(settings.instance->metadata.at(key + "1") == "a");
  CHECK(settings.instance->metadata.at(key + "2") == "b");
}
