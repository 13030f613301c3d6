// Small readers of text from outside: endpoints, addresses to listen at, cluster names, variables, quoting. Properties: none
// throws; what was taken apart and put together again is the same; what is shown can be shown; what is encoded can be decoded.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "property.hpp"
#include "registry/config/complaint.hpp"
#include "registry/config/scalar.hpp"
#include "registry/model/endpoint.hpp"
#include "registry/model/validate.hpp"
#include "registry/policy/advertise.hpp"
#include "registry/policy/ip_literal.hpp"
#include "registry/rpc/xds_names.hpp"

namespace detail = registry::detail;

namespace {

constexpr std::string_view secret = "hunter2-of-the-environment";

void check_endpoint(const std::string& text) {
  const auto endpoint = registry::parse_endpoint(text);
  if (!endpoint) return;
  fuzz::check(endpoint->port != 0 && !endpoint->host.empty(), "an endpoint has a host and a port", text);
  const std::string scheme = endpoint->scheme.empty() ? "" : endpoint->scheme + "://";
  const std::string query = endpoint->query.empty() ? "" : "?" + endpoint->query;
  const auto again = registry::parse_endpoint(scheme + endpoint->authority() + query);
  fuzz::check(again.has_value(), "what was taken apart can be put together", text);
  fuzz::check(again->scheme == endpoint->scheme && again->host == endpoint->host &&
                  again->port == endpoint->port && again->query == endpoint->query,
              "and says the same", text);
  for (const char c : endpoint->host)
    fuzz::check(c > ' ' && c < 0x7f && c != '/', "a host is plain text", text);
}

void check_valid(const std::string& text) {
  registry::ServiceInstance instance(text, text);
  instance.endpoints = {text};
  instance.metadata = {{text, text}};
  try {
    registry::validate(instance);
    fuzz::check(registry::parse_endpoint(text).has_value(), "valid endpoints can be taken apart", text);
  } catch (const std::system_error& error) {
    fuzz::check(error.code() == registry::errc::invalid_argument, "refused as invalid_argument", text);
    fuzz::check_message(error.what(), 1000);
  }
}

void check_encoded(const std::string& text) {
  const std::string encoded = detail::percent_encoded(text);
  for (const char c : encoded) {
    fuzz::check(detail::is_alnum(c) || std::string_view("-._~%").find(c) != std::string_view::npos, "plain",
                text);
  }
  fuzz::check(detail::percent_decoded(encoded) == text, "percent_decoded(percent_encoded(x)) == x", text);
  const detail::ClusterName name(detail::ClusterName::of(text, encoded));
  fuzz::check(name.service == text && name.version == encoded, "a cluster's name tells service and version",
              text);
  fuzz::check(!detail::ClusterName(detail::ClusterName::of(text)).version, "or the service alone", text);
  detail::ClusterName any(text);
  const std::string shown = detail::quote(text);
  fuzz::check_message(shown, 4 * 80 + 40);
  fuzz::check(shown.front() == '"', "quoted text is in quotes", shown);
}

void check_expanded(const std::string& text) {
  const detail::Expansion made = detail::expand_variables(text);
  fuzz::check(made.problem.find(secret) == made.problem.npos, "problems do not tell what a variable held",
              text);
  if (!made.problem.empty()) fuzz::check_message(made.problem, 500);
  std::string escaped;
  for (const char c : text) escaped += c == '$' ? "$$" : std::string(1, c);
  const detail::Expansion same = detail::expand_variables(escaped);
  fuzz::check(same.problem.empty() && same.text == text, "$$ stands for $", text);
  const bool filled = made.text.find(secret) != made.text.npos, named = text.find("${SECRET}") != text.npos;
  fuzz::check(!filled || named, "only ${SECRET} is what SECRET holds", text);
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  return ::setenv("SECRET", secret.data(), 1) | ::unsetenv("UNSET");
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (text.find(secret) != text.npos) return -1;  // told by itself
  check_endpoint(text);
  check_valid(text);
  check_encoded(text);
  check_expanded(text);
  if (const auto time = detail::parse_duration(text))
    fuzz::check(time->count() >= 0, "durations are no debts", text);
  if (const auto apart = detail::take_apart(text)) {
    fuzz::check(apart->field.size() + apart->value.size() + apart->advice.size() < size, "parts of the whole",
                text);
  }
  registry::parse_listen_address(text);
  if (const auto ip = detail::parse_ip(text)) {
    const auto again = detail::parse_ip(ip->text());
    fuzz::check(again == ip && again->text() == ip->text(), "an address has one spelling", text);
  }
  return 0;
}
