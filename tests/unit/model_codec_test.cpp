// The stored value: golden bytes as Go's encoding/json writes them, and reading back whatever others wrote.
#include <doctest/doctest.h>

#include <map>
#include <ostream>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "registry/model/codec.hpp"
#include "registry/model/text.hpp"
#include "rig/seed.hpp"

using registry::decode;
using registry::Decoded;
using registry::encode;
using registry::ServiceInstance;
using Map = std::map<std::string, std::string>;
using List = std::vector<std::string>;

namespace {

ServiceInstance with_version(std::string version) {
  ServiceInstance one;
  one.version = std::move(version);
  return one;
}

// What stands between the quotes of the version.
std::string escaped(std::string text) {
  const std::string value = encode(with_version(std::move(text)));
  const std::string before = R"({"id":"","name":"","version":")",
                    after = R"(","metadata":null,"endpoints":null})";
  REQUIRE(value.starts_with(before));
  REQUIRE(value.ends_with(after));
  return value.substr(before.size(), value.size() - before.size() - after.size());
}

// The instance; fails the test if there is none.
ServiceInstance read(std::string_view value) {
  Decoded result = decode(value, "s", "i");
  CAPTURE(value.substr(0, 200));
  CAPTURE(result.reason);
  REQUIRE(static_cast<bool>(result));
  CHECK(result.reason.empty());
  CHECK(result.instance.name == "s");
  CHECK(result.instance.id == "i");
  return result.instance;
}

// Why there is none; fails the test if there is one.
std::string refused(std::string_view value) {
  const Decoded result = decode(value, "s", "i");
  CAPTURE(value.substr(0, 200));
  REQUIRE_FALSE(static_cast<bool>(result));
  CHECK(result.error == registry::errc::bad_value);
  CHECK_FALSE(result.reason.empty());
  CHECK(result.reason.size() < 200);
  return result.reason;
}

}  // namespace

TEST_CASE("encode: golden bytes of genesis and kratos") {
  ServiceInstance full("user-service", "i-1");
  full.version = "v1.0.0";
  full.metadata = {{"zone", "a"}, {"weight", "100"}};
  full.endpoints = {"grpc://127.0.0.1:9001"};
  CHECK(encode(full) ==
        R"({"id":"i-1","name":"user-service","version":"v1.0.0","metadata":{"weight":"100","zone":"a"},)"
        R"("endpoints":["grpc://127.0.0.1:9001"]})");
  ServiceInstance bare("user-service", "i-1");
  bare.endpoints = {"127.0.0.1:9001", "[::1]:80"};
  CHECK(encode(bare) == R"({"id":"i-1","name":"user-service","version":"","metadata":null,)"
                        R"("endpoints":["127.0.0.1:9001","[::1]:80"]})");
  CHECK(encode(ServiceInstance("helloworld", "0")) ==
        R"({"id":"0","name":"helloworld","version":"","metadata":null,"endpoints":null})");
}

TEST_CASE("encode: escapes as Go 1.22 and later") {
  CHECK(escaped("a/b") == "a/b");
  CHECK(escaped("<a>&'") == R"(\u003ca\u003e\u0026')");
  CHECK(escaped("\"\\") == R"(\"\\)");
  CHECK(escaped("\b\f\n\r\t") == R"(\b\f\n\r\t)");
  CHECK(escaped(std::string("\0\x01\x0b\x1f\x7f", 5)) == "\\u0000\\u0001\\u000b\\u001f\x7f");
  CHECK(escaped("grö\u2028\u2029\u2027€😀") == "grö\\u2028\\u2029\u2027€😀");
  CHECK(escaped("a\xff\xfe"
                "b\xe2\x80") == R"(a\ufffd\ufffdb\ufffd\ufffd)");
  CHECK(escaped("\xed\xa0\x80") == R"(\ufffd\ufffd\ufffd)");  // a surrogate in disguise: three bad bytes
  CHECK(escaped("\ufffd") == "\ufffd");                       // a good one stays
}

TEST_CASE("encode: keys are sorted by bytes") {
  ServiceInstance one;
  one.metadata = {{"b", ""}, {"a", ""}, {"B", ""}, {"\xc3\xa9", ""}, {"", ""}, {"~", ""}};
  CHECK(encode(one).find(R"({"":"","B":"","a":"","b":"","~":"",")"
                         "\xc3\xa9"
                         R"(":""})") != std::string::npos);
}

TEST_CASE("decode: what encode wrote, any text") {
  std::mt19937_64 random(rig::test_seed("codec"));
  static const std::string_view pieces[] = {
      "a", "zone",   "\"", "\\", "<",    "\n",   std::string_view("\0", 1),
      "é", "\u2028", "😀", "/",  "\x7f", "\x1f", "long text without anything to escape in it"};
  const auto text = [&random] {
    std::string out;
    for (auto n = random() % 8; n > 0; --n) out += pieces[random() % std::size(pieces)];
    if (random() % 50 == 0) out.append(5000, 'x');
    return out;
  };
  for (int round = 0; round < 2000; ++round) {
    ServiceInstance one("s", "i");
    one.version = text();
    for (auto n = random() % 4; n > 0; --n) one.metadata[text()] = text();
    for (auto n = random() % 4; n > 0; --n) one.endpoints.push_back(text());
    REQUIRE(read(encode(one)) == one);
  }
}

TEST_CASE("decode: tolerant as Go") {
  CHECK(read("{}") == ServiceInstance("s", "i"));
  CHECK(read(" \t\r\n{ } \n") == ServiceInstance("s", "i"));
  const ServiceInstance nulls =
      read(R"({"id":null,"name":null,"version":null,"metadata":null,"endpoints":null})");
  CHECK(nulls == ServiceInstance("s", "i"));
  const ServiceInstance mixed = read(
      R"({"endpoints":["h:1","h:2"],"extra":{"version":"no","metadata":{"x":1},"a":[1,[true,{"id":5}]]},)"
      R"("Version":"v1","METADATA":{"zone":"a"},"n":-1.5e300,)"
      R"("u":18446744073709551615,"t":true,"s":"\u00e9","":null})");
  CHECK(mixed.version == "v1");
  CHECK(mixed.metadata == Map{{"zone", "a"}});
  CHECK(mixed.endpoints == List{"h:1", "h:2"});
  CHECK(read(R"({"metadata":{"a":null,"b":""},"endpoints":[null]})").metadata == Map{{"a", ""}, {"b", ""}});
  CHECK(read(R"({"metadata":{},"endpoints":[]})") == ServiceInstance("s", "i"));
  CHECK(read(R"({"\u0076ersion":"v\u0031\n"})").version == "v1\n");
  CHECK(read(R"({"metadata":{"version":"x","id":"y"}})").version.empty());
  CHECK(read(R"({"versio":"x","versions":"y","idd":5})").version.empty());
}

TEST_CASE("decode: the last of repeated fields counts") {
  CHECK(read(R"({"version":"a","VERSION":"b"})").version == "b");
  CHECK(read(R"({"metadata":{"a":"1","b":"2"},"metadata":{"c":"3"}})").metadata == Map{{"c", "3"}});
  CHECK(read(R"({"metadata":{"b":"1","a":"2","b":"3","a":"4"}})").metadata == Map{{"a", "4"}, {"b", "3"}});
  CHECK(read(R"({"endpoints":["a:1"],"endpoints":["b:1"]})").endpoints == List{"b:1"});
  CHECK(read(R"({"endpoints":["a:1"],"endpoints":null})").endpoints.empty());
}

TEST_CASE("decode: the key says who it is, not the value") {
  const ServiceInstance one = read(R"({"id":"somebody","name":"else","version":"v1"})");
  CHECK(one.id == "i");
  CHECK(one.name == "s");
}

TEST_CASE("decode: wrong types are named") {
  CHECK(refused(R"({"id":5})") == "id: expected a string");
  CHECK(refused(R"({"name":["x"]})") == "name: expected a string");
  CHECK(refused(R"({"version":1.5})") == "version: expected a string");
  CHECK(refused(R"({"version":{}})") == "version: expected a string");
  CHECK(refused(R"({"version":true})") == "version: expected a string");
  CHECK(refused(R"({"metadata":"x"})") == "metadata: expected an object of strings");
  CHECK(refused(R"({"metadata":[]})") == "metadata: expected an object of strings");
  CHECK(refused(R"({"metadata":{"weight":100}})") == "metadata: expected a string");
  CHECK(refused(R"({"metadata":{"a":{}}})") == "metadata: expected a string");
  CHECK(refused(R"({"metadata":{"a":["x"]}})") == "metadata: expected a string");
  CHECK(refused(R"({"endpoints":"h:1"})") == "endpoints: expected a list of strings");
  CHECK(refused(R"({"endpoints":{"a":"h:1"}})") == "endpoints: expected a list of strings");
  CHECK(refused(R"({"endpoints":[1]})") == "endpoints: expected a string");
  CHECK(refused(R"({"endpoints":[["h:1"]]})") == "endpoints: expected a string");
  for (const char* value : {"null", "true", "5", "-5", "1.5", "\"text\"", "\"te\\nxt\"", "[]", "[{}]"}) {
    CHECK(refused(value) == "value: expected an object");
  }
}

TEST_CASE("decode: what is not JSON") {
  for (const char* value : {"",
                            " ",
                            "{",
                            "}",
                            "{\"version\":\"v1\"",
                            "{\"version\":\"v1",
                            "{\"version\":}",
                            "{,}",
                            "{\"a\":1,}",
                            "{'a':1}",
                            "{} {}",
                            "{}x",
                            "nul",
                            "{\"version\":\"\x01\"}",
                            "{\"version\":\"\\x\"}",
                            "{\"version\":\"\\ud800\"}",
                            "{\"a\":01}",
                            "10.0.0.1:8080",
                            "{\"version\":\"\xff\"}",
                            "{\"extra\":\"\xc0\x80\"}",
                            "\xef\xbb\xbf{}",
                            "{/**/}"}) {
    refused(value);
  }
  refused(std::string_view("{}\0", 3));
}

TEST_CASE("decode: a value that is cut anywhere is refused, and nothing is read behind its end") {
  ServiceInstance one("s", "i");
  one.version = "v\n1";
  one.metadata = {{"zone", "a\u2028"}};
  one.endpoints = {"h:1"};
  const std::string value = encode(one);
  for (std::size_t size = 0; size < value.size(); ++size) {
    const std::vector<char> exact(value.begin(), value.begin() + static_cast<std::ptrdiff_t>(size));
    refused(std::string_view(exact.data(), exact.size()));
  }
}

TEST_CASE("decode: limits on size and depth") {
  const std::string before = R"({"version":")", after = R"("})";
  const std::string full = before + std::string((1 << 20) - before.size() - after.size(), 'x') + after;
  CHECK(read(full).version.size() == full.size() - before.size() - after.size());
  CHECK(refused(full + " ").find("1048577 bytes") != std::string::npos);
  const auto nested = [](int depth) {
    return "{\"x\":" + std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']') + "}";
  };
  CHECK(read(nested(31)) == ServiceInstance("s", "i"));
  refused(nested(32));
  refused(nested(100'000));
}

TEST_CASE("decode: damaged values are refused or read, never a crash") {
  std::mt19937_64 random(rig::test_seed("codec damage"));
  const std::string good = R"({"id":"i","name":"s","version":"v\u0031",)"
                           R"("metadata":{"weight":"100","zone":"a"},"endpoints":["grpc://h:1"]})";
  static constexpr std::string_view bytes = "{}[]\",:\\0truefalsn \x80\xff\x01";
  for (int round = 0; round < 20'000; ++round) {
    std::string value = good;
    for (auto n = 1 + random() % 4; n > 0; --n) {
      const std::size_t place = random() % value.size();
      switch (random() % 3) {
        case 0: value[place] = bytes[random() % bytes.size()]; break;
        case 1: value.erase(place, 1 + random() % 3); break;
        default: value.insert(place, value.substr(random() % value.size(), random() % 9));
      }
    }
    const Decoded result = decode(value, "s", "i");
    REQUIRE(static_cast<bool>(result) == result.reason.empty());
    if (result) REQUIRE(decode(encode(result.instance), "s", "i").instance == result.instance);
  }
}
