// Which address is published: from where a server listens, what its user said, and the route to the store.
#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <string_view>

#include "registry/policy/advertise.hpp"

using namespace registry;

namespace {

std::string decided(std::string_view advertised, std::string_view listen,
                    const std::optional<std::string>& route = std::nullopt) {
  const AdvertiseDecision decision = advertise(advertised, listen, route);
  switch (decision.kind) {
    case AdvertiseDecision::Publish: CHECK(decision.why.empty()); return decision.host;
    case AdvertiseDecision::NeedRoute: return "needs the route";
    case AdvertiseDecision::Reject: CHECK_FALSE(decision.why.empty()); return "rejected";
  }
  return "?";
}

std::string parsed(std::string_view text) {
  const auto address = parse_listen_address(text);
  return address ? address->host + "|" + std::to_string(address->port) : "bad";
}

}  // namespace

TEST_CASE("advertise: what the user says counts, but a wildcard never") {
  CHECK(decided("api.example.com", "0.0.0.0") == "api.example.com");
  CHECK(decided("10.0.0.5", "127.0.0.1") == "10.0.0.5");
  CHECK(decided("127.0.0.1", "0.0.0.0") == "127.0.0.1");
  CHECK(decided("[2001:db8::1]", "::") == "2001:db8::1");
  for (const char* wildcard :
       {"0.0.0.0", "::", "[::]", "*", "0", "0:0:0:0:0:0:0:0", "::0", "::ffff:0.0.0.0", "00.0.0.0", "[]"}) {
    CAPTURE(wildcard);
    CHECK(decided(wildcard, "10.0.0.5") == "rejected");
  }
}

TEST_CASE("advertise: one address to listen at is the one to publish") {
  CHECK(decided("", "10.0.0.5") == "10.0.0.5");
  CHECK(decided("", "127.0.0.1") == "127.0.0.1");
  CHECK(decided("", "::1") == "::1");
  CHECK(decided("", "localhost") == "localhost");
}

TEST_CASE("advertise: a wildcard to listen at is replaced by the route") {
  for (const char* listen : {"", "0.0.0.0", "::", "*"}) {
    CAPTURE(listen);
    CHECK(decided("", listen) == "needs the route");
    CHECK(decided("", listen, "10.0.0.5") == "10.0.0.5");
    CHECK(decided("", listen, "127.0.0.1") == "127.0.0.1");  // the store is on this machine
    CHECK(decided("", listen, "") == "rejected");
    CHECK(decided("", listen, "0.0.0.0") == "rejected");
    CHECK(decided("", listen, "::") == "rejected");
    CHECK(decided("", listen, "fe80::1%eth0") == "rejected");
  }
  CHECK(decided("", "::", "2001:db8::1") == "2001:db8::1");
  CHECK(decided("", "0.0.0.0", "2001:db8::1") == "rejected");
  CHECK(decided("", "", "2001:db8::1") == "2001:db8::1");
}

TEST_CASE("advertise: listen addresses") {
  CHECK(parsed("0.0.0.0:0") == "0.0.0.0|0");
  CHECK(parsed("[::]:50051") == "::|50051");
  CHECK(parsed("[fe80::1%eth0]:1") == "fe80::1%eth0|1");
  CHECK(parsed(":9000") == "|9000");
  CHECK(parsed("localhost:65535") == "localhost|65535");
  for (const char* bad : {"", "localhost", "localhost:", "localhost:x", "localhost:65536", "::1:80",
                          "[localhost]:80", "unix:/tmp/x.sock", "dns:///a:80", "a b:80", "a:-1", "[]:80"}) {
    CAPTURE(bad);
    CHECK(parsed(bad) == "bad");
  }
}

TEST_CASE("advertise: loopback") {
  for (const char* yes : {"127.0.0.1", "127.9.9.9", "::1", "localhost", "::ffff:127.0.0.1"})
    CHECK(is_loopback(yes));
  for (const char* no : {"10.0.0.1", "127.example.com", "::2", "localhost.example.com"})
    CHECK_FALSE(is_loopback(no));
}
