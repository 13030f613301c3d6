// Checks of what users hand in: what passes, what does not, and that the message helps.
#include <doctest/doctest.h>

#include <chrono>
#include <functional>
#include <ostream>
#include <string>
#include <system_error>

#include "registry/model/text.hpp"
#include "registry/model/validate.hpp"

using registry::RegistryConfig;
using registry::ServiceInstance;

namespace {

ServiceInstance good() {
  ServiceInstance one("user-service", "user-1");
  one.version = "v1";
  one.metadata = {{"zone", "a"}};
  one.endpoints = {"grpc://10.0.0.5:9001"};
  return one;
}

// The message of the refusal; empty if there was none.
std::string refusal(const std::function<void()>& check) {
  try {
    check();
  } catch (const std::system_error& error) {
    CHECK(error.code() == registry::errc::invalid_argument);
    return error.what();
  }
  return {};
}

std::string refusal(const std::function<void(ServiceInstance&)>& change) {
  ServiceInstance one = good();
  change(one);
  return refusal([&] { registry::validate(one); });
}

std::string refusal(const std::function<void(RegistryConfig&)>& change) {
  RegistryConfig config;
  change(config);
  return refusal([&] { registry::validate(config); });
}

bool holds(const std::string& message, const std::string& part) {
  CAPTURE(message);
  CAPTURE(part);
  const bool found = message.find(part) != std::string::npos;
  CHECK(found);
  return found;
}

using I = ServiceInstance;
using C = RegistryConfig;

}  // namespace

TEST_CASE("validate: instances that pass") {
  CHECK(refusal([](I&) {}).empty());
  CHECK(refusal([](I& i) { i.version.clear(), i.metadata.clear(); }).empty());
  CHECK(refusal([](I& i) { i.id = std::string(255, 'x'), i.name = "größe.v1_2"; }).empty());
  CHECK(refusal([](I& i) { i.metadata["note"] = "two\nlines"; }).empty());
  CHECK(refusal([](I& i) {
          i.endpoints = {"grpc://h:1", "http://h:2", "https://h:3", "tcp://h:4", "h:5", "[::1]:80"};
        }).empty());
}

TEST_CASE("validate: id and name are one level of a key") {
  holds(refusal([](I& i) { i.id.clear(); }), "id = \"\"");
  holds(refusal([](I& i) { i.name.clear(); }), "name = \"\"");
  holds(refusal([](I& i) { i.id = "a/b"; }), "id = \"a/b\"");
  holds(refusal([](I& i) { i.name = "a/b"; }), "'/'");
  holds(refusal([](I& i) { i.id = "a\nb\x1b[31m"; }), "id = \"a\\x0ab\\x1b[31m\"");
  holds(refusal([](I& i) { i.id = std::string("a\0b", 3); }), "\\x00");
  holds(refusal([](I& i) { i.name = "a\xff"; }), "\"a\\xff\": use valid UTF-8");
  const std::string huge = refusal([](I& i) { i.id = std::string(1'000'000, 'x'); });
  holds(huge, "255");
  CHECK(huge.size() < 400);
  CHECK_FALSE(refusal([] { registry::validate_service_name("a/b"); }).empty());
  CHECK(refusal([] { registry::validate_service_name("a"); }).empty());
}

TEST_CASE("validate: the rest of an instance") {
  holds(refusal([](I& i) { i.version = "v\x7f"; }), "version = ");
  holds(refusal([](I& i) { i.endpoints.clear(); }), "endpoints = (none)");
  holds(refusal([](I& i) { i.endpoints.assign(257, "h:1"); }), "257");
  for (const char* text : {"", "h", "h:0", "h:70000", "ftp://h:1", "grpc://h:1?isSecure=true", "h:1\n"}) {
    CAPTURE(text);
    holds(refusal([&](I& i) { i.endpoints.push_back(text); }), "endpoint = \"");
  }
  holds(refusal([](I& i) { i.metadata[""] = "x"; }), "metadata key");
  holds(refusal([](I& i) { i.metadata["a\tb"] = "x"; }), "a\\x09b");
  holds(refusal([](I& i) { i.metadata["k"] = "\xc0\x80"; }), "metadata \"k\" = ");
  holds(refusal([](I& i) {
          for (int n = 0; n < 2000; ++n) i.metadata[std::to_string(n)] = "";
        }),
        "1024");
  // The bound is on the bytes as stored: escapes make a value longer.
  CHECK(refusal([](I& i) { i.metadata["k"] = std::string(1'000'000, 'x'); }).empty());
  holds(refusal([](I& i) { i.metadata["k"] = std::string(1'000'000, '<'); }), "as JSON");
}

TEST_CASE("validate: TTLs") {
  using std::chrono::seconds;
  for (const std::int64_t ttl : {0LL, 1LL, 30LL, 9'000'000'000LL}) {
    CHECK(refusal([&] { registry::validate_ttl(seconds(ttl)); }).empty());
  }
  holds(refusal([] { registry::validate_ttl(seconds(-1)); }), "ttl = -1 s");
  holds(refusal([] { registry::validate_ttl(seconds(9'000'000'001)); }), "ttl = 9000000001 s");
}

TEST_CASE("validate: configurations") {
  using namespace std::chrono_literals;
  CHECK(refusal([](C&) {}).empty());
  CHECK(refusal([](C& c) { c.group = "blue", c.close_timeout = 0ms; }).empty());
  for (const char* space : {"", "/", "a", "a/b", "/a/", "//a", "/a//b", "/a\n"}) {
    CAPTURE(space);
    holds(refusal([&](C& c) { c.name_space = space; }), "name_space = ");
  }
  holds(refusal([](C& c) { c.group = "a/b"; }), "group = \"a/b\"");
  holds(refusal([](C& c) { c.default_ttl = 0s; }), "default_ttl");
  holds(refusal([](C& c) { c.default_ttl = -5s; }), "-5 s");
  holds(refusal([](C& c) { c.retry_interval = 0ms; }), "retry_interval = 0 ms");
  holds(refusal([](C& c) { c.max_retry_interval = 999ms; }), "max_retry_interval = 999 ms");
  holds(refusal([](C& c) { c.max_retry_interval = 25h; }), "max_retry_interval");
  holds(refusal([](C& c) { c.close_timeout = -1ms; }), "close_timeout = -1 ms");
}

TEST_CASE("text: UTF-8 as the standard has it") {
  using registry::detail::is_utf8;
  for (const char* text : {"", "a", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf",
                           "\xee\x80\x80", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
    CHECK(is_utf8(text));
  }
  for (const char* text : {"\x80", "\xbf", "\xc0\x80", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x9f\xbf",
                           "\xe2\x82", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80",
                           "\xf5\x80\x80\x80", "\xff", "\xe2\x28\xa1", "\xf0\x9f\x98\x41"}) {
    CHECK_FALSE(is_utf8(text));
  }
}

TEST_CASE("text: what is shown in a message is bounded and harmless") {
  using registry::detail::quote;
  CHECK(quote("a\"b\\c") == "\"a\\\"b\\\\c\"");
  CHECK(quote("\xc2\x9b"
              "31m") == "\"\\xc2\\x9b31m\"");
  CHECK(quote("größe") == "\"größe\"");
  CHECK(quote(std::string(100, 'x'), 5) == "\"xxxxx\"... (100 bytes)");
  CHECK(quote("aé", 2) == "\"a\"... (3 bytes)");
}
