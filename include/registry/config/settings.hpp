// What a program is configured with: the store, the Registry, its instance, its server. And the list of all keys of a
// configuration file, which whoever reads, compares or checks settings walks.
#pragma once

#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "registry/etcd/config.hpp"
#include "registry/model/config.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/instance.hpp"
#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"
#include "registry/observe/observer.hpp"
#include "registry/policy/advertise.hpp"

namespace registry {

/// Where a server listens and what its clients connect to: as in ServeConfig.
struct ServerSettings {
  /// "host:port", "[v6]:port" or ":port" (every address). Port 0: any free one. Empty: the program opens its ports
  /// itself, and names the instance's endpoints.
  std::string listen_address = "0.0.0.0:0";
  /// A name or an address without a port, never a wildcard. Empty: it is found out.
  std::string advertised_host;

  ServerSettings() {}
};

/// What a configuration file says; see docs/configuration.md. A value: copy it freely.
struct Settings {
  /// Of the Connector.
  ::registry::etcd::ConnectorConfig etcd;
  /// Of the Registry.
  RegistryConfig registry;
  /// What to register, if anything. Without endpoints: the server adds the address it is reached at.
  std::optional<ServiceInstance> instance;
  /// Of that registration. Zero: `registry.default_ttl`.
  std::chrono::seconds ttl{0};
  /// Where the program serves.
  ServerSettings server;
  /// For the program's logger: the library leaves it to the Logger what is written.
  LogLevel log_level = LogLevel::Info;

  Settings() {}
};

namespace detail {

/// The key `name_space` has another name in files.
inline constexpr std::string_view namespace_key = "registry.namespace";

/// The well-known metadata, which have keys of their own.
inline constexpr std::array<std::string_view, 4> well_known{"weight", "status", "region", "zone"};

/// Every key of a configuration file. `visit(path, member)` for each; `visit.section(path, optional)` tells whether the
/// keys of an optional section follow; `visit.entry(name, metadata)` is for those of `well_known`.
template <class Config, class Visit>
void each_field(Config& config, Visit& visit) {
  visit("etcd.endpoints", config.etcd.endpoints);
  visit("etcd.username", config.etcd.username);
  visit("etcd.password", config.etcd.password);
  if (visit.section("etcd.tls", config.etcd.tls)) {
    visit("etcd.tls.ca_file", config.etcd.tls->ca_file);
    visit("etcd.tls.cert_file", config.etcd.tls->cert_file);
    visit("etcd.tls.key_file", config.etcd.tls->key_file);
    visit("etcd.tls.server_name", config.etcd.tls->server_name);
  }
  visit("etcd.dial_timeout", config.etcd.dial_timeout);
  visit("etcd.request_timeout", config.etcd.request_timeout);
  visit("etcd.ping_interval", config.etcd.ping_interval);
  visit("etcd.ping_timeout", config.etcd.ping_timeout);
  visit("etcd.auto_sync_interval", config.etcd.auto_sync_interval);
  visit(namespace_key, config.registry.name_space);
  visit("registry.group", config.registry.group);
  visit("registry.default_ttl", config.registry.default_ttl);
  visit("registry.retry_interval", config.registry.retry_interval);
  visit("registry.max_retry_interval", config.registry.max_retry_interval);
  visit("registry.close_timeout", config.registry.close_timeout);
  visit("registry.on_conflict", config.registry.on_conflict);
  visit("registry.guard_keys", config.registry.guard_keys);
  visit("registry.last_known_good_folder", config.registry.last_known_good_folder);
  visit("registry.disappearance_limit", config.registry.disappearance_limit);
  visit("registry.disappearance_hold", config.registry.disappearance_hold);
  if (visit.section("instance", config.instance)) {
    visit("instance.id", config.instance->id);
    visit("instance.name", config.instance->name);
    visit("instance.version", config.instance->version);
    visit("instance.metadata", config.instance->metadata);
    for (const std::string_view name : well_known) visit.entry(name, config.instance->metadata);
    visit("instance.endpoints", config.instance->endpoints);
    visit("instance.ttl", config.ttl);
  }
  visit("server.listen_address", config.server.listen_address);
  visit("server.advertised_host", config.server.advertised_host);
  visit("log_level", config.log_level);
}

/// The words of an enumeration, by its values.
template <class Choice>
inline constexpr std::array<std::string_view, 0> words_of{};
template <>
inline constexpr std::array<std::string_view, 2> words_of<ConflictPolicy>{"take_over", "fail"};
template <>
inline constexpr std::array<std::string_view, 4> words_of<LogLevel>{"debug", "info", "warning", "error"};
template <>
inline constexpr std::array<std::string_view, 3> words_of<InstanceStatus>{"up", "disabled", "draining"};

inline bool is_well_known(std::string_view name) noexcept {
  for (const std::string_view known : well_known) {
    if (name == known) return true;
  }
  return false;
}

/// All values as text that is equal if and only if they are.
class FieldTexts {
 public:
  explicit FieldTexts(const Settings& settings) { each_field(settings, *this); }

  const std::map<std::string, std::string>& all() const noexcept { return all_; }

  void operator()(std::string_view path, const std::string& value) { put(path, value); }
  void operator()(std::string_view path, const std::vector<std::string>& values) {
    std::string joined;
    for (const std::string& value : values) joined += framed(value);
    put(path, joined);
  }
  void operator()(std::string_view path, const std::map<std::string, std::string>& values) {
    std::string joined;
    for (const auto& [key, value] : values) {
      if (!is_well_known(key)) joined += framed(key) + framed(value);
    }
    put(path, joined);
  }
  template <class Rep, class Period>
  void operator()(std::string_view path, std::chrono::duration<Rep, Period> value) {
    put(path, std::to_string(value.count()));
  }
  void operator()(std::string_view path, bool value) { put(path, value ? "true" : "false"); }
  void operator()(std::string_view path, double value) {
    std::array<char, 32> digits{};
    put(path,
        std::string(digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), value).ptr));
  }
  template <class Choice>
    requires std::is_enum_v<Choice>
  void operator()(std::string_view path, Choice value) {
    put(path, std::string(words_of<Choice>[static_cast<std::size_t>(value)]));
  }
  template <class Section>
  bool section(std::string_view path, const std::optional<Section>& value) {
    if (value) put(path, "there");
    return value.has_value();
  }
  void entry(std::string_view name, const std::map<std::string, std::string>& metadata) {
    const auto found = metadata.find(std::string(name));
    if (found != metadata.end()) put("instance." + std::string(name), found->second);
  }

 private:
  static std::string framed(const std::string& text) { return std::to_string(text.size()) + ":" + text; }
  void put(std::string_view path, std::string text) { all_.emplace(path, std::move(text)); }

  std::map<std::string, std::string> all_;
};

/// Runs a check, and puts the section before the field that it names.
template <class Check>
void in_section(const std::string& section, Check check) {
  try {
    check();
  } catch (const std::system_error& error) {
    fail(errc::invalid_argument, section + "." + Problem(error).words);
  }
}

/// What others connect to: a host name or an address, without a port.
inline bool is_host(std::string_view host) {
  const std::size_t colon = host.find(':');
  if (colon != std::string_view::npos && host.find(':', colon + 1) == std::string_view::npos) return false;
  const bool bare_v6 = colon != std::string_view::npos && host.front() != '[';
  const std::string text(host);
  return parse_endpoint((bare_v6 ? "[" + text + "]" : text) + ":1").has_value();
}

inline void check_instance(const ServiceInstance& from, const ServerSettings& server,
                           std::chrono::seconds ttl) {
  ServiceInstance instance = from;
  if (instance.endpoints.empty() && server.listen_address.empty()) {
    reject("endpoints", "(none)", "name at least one, or where to listen in server.listen_address");
  }
  if (instance.endpoints.empty()) instance.endpoints = {"grpc://127.0.0.1:1"};  // the server puts in its own
  validate(instance);
  for (const std::string& text : instance.endpoints) {
    if (!is_wildcard(parse_endpoint(text)->host)) continue;
    reject("endpoint", quote(text), "is a wildcard, which nobody can connect to: name one address");
  }
  validate_ttl(ttl);
}

inline void check_server(const ServerSettings& server) {
  const auto listen = parse_listen_address(server.listen_address);
  if (!server.listen_address.empty() && !listen) {
    reject("listen_address", quote(server.listen_address),
           "use host:port, [v6]:port or :port; port 0 for any");
  }
  if (server.advertised_host.empty()) return;
  if (is_wildcard(server.advertised_host)) {
    reject("advertised_host", quote(server.advertised_host),
           "is a wildcard, which nobody can connect to: name one address");
  }
  if (!is_host(server.advertised_host)) {
    reject("advertised_host", quote(server.advertised_host), "use a host name or an address, without a port");
  }
}

}  // namespace detail

/// The keys whose values differ, sorted, as in files: "etcd.endpoints", "instance.weight"; a section that only one of
/// them has counts too. No values: those may be secrets.
inline std::vector<std::string> changed_fields(const Settings& before, const Settings& after) {
  const detail::FieldTexts was(before), is(after);
  std::map<std::string, std::string> differing = was.all();
  for (const auto& [path, text] : is.all()) {
    const auto [found, added] = differing.emplace(path, text);
    if (!added && found->second == text) differing.erase(found);
  }
  std::vector<std::string> paths;
  for (const auto& [path, text] : differing) paths.push_back(path);
  return paths;
}

/// Whether both say the same.
inline bool operator==(const Settings& one, const Settings& other) {
  return detail::FieldTexts(one).all() == detail::FieldTexts(other).all();
}

/// Throws `invalid_argument` that names the section, the field and the value: all that Connector, Registry,
/// register_instance and serve would find.
inline void validate(const Settings& settings) {
  using detail::in_section;
  in_section("etcd", [&] { validate(settings.etcd); });
  in_section("registry", [&] { validate(settings.registry); });
  if (settings.instance) {
    in_section("instance",
               [&] { detail::check_instance(*settings.instance, settings.server, settings.ttl); });
  }
  in_section("server", [&] { detail::check_server(settings.server); });
}

}  // namespace registry
