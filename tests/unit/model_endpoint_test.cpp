// Endpoints taken apart.
#include <doctest/doctest.h>

#include <string>

#include "registry/model/endpoint.hpp"

using registry::parse_endpoint;

TEST_CASE("endpoint: the forms that genesis, kratos and users write") {
  auto e = parse_endpoint("grpc://10.0.0.5:9001");
  REQUIRE(e);
  CHECK(e->scheme == "grpc");
  CHECK(e->host == "10.0.0.5");
  CHECK(e->port == 9001);
  CHECK(e->authority() == "10.0.0.5:9001");

  e = parse_endpoint("my_host-1.example:65535");
  REQUIRE(e);
  CHECK(e->scheme.empty());
  CHECK(e->host == "my_host-1.example");
  CHECK(e->port == 65535);

  e = parse_endpoint("HTTPS://[fe80::1%eth0]:80");
  REQUIRE(e);
  CHECK(e->scheme == "https");
  CHECK(e->host == "fe80::1%eth0");
  CHECK(e->is_ipv6());
  CHECK(e->authority() == "[fe80::1%eth0]:80");

  e = parse_endpoint("grpc://127.0.0.1:9000?isSecure=false");
  REQUIRE(e);
  CHECK(e->port == 9000);
  CHECK(e->query == "isSecure=false");
}

TEST_CASE("endpoint: what has no host and port is refused") {
  for (const char* text : {"",
                           "host",
                           "host:",
                           ":80",
                           "host:0",
                           "host:65536",
                           "host:-1",
                           "host:+1",
                           "host:8 0",
                           "host:80x",
                           "host:80/",
                           "host:99999999999",
                           "::1:80",
                           "[::1]",
                           "[::1]80",
                           "[::1]:",
                           "[]:80",
                           "[host]:80",
                           "[::1%]:80",
                           "[::1:80",
                           "://host:80",
                           "grpc://",
                           "grpc:/host:80",
                           "gr pc://host:80",
                           "grpc://grpc://host:80",
                           "ho st:80",
                           "host\n:80",
                           "user@host:80",
                           "host:80#x",
                           "unix:///tmp/x"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_endpoint(text).has_value());
  }
  CHECK_FALSE(parse_endpoint(std::string(254, 'a') + ":80").has_value());
  CHECK_FALSE(parse_endpoint(std::string("ho\0st:80", 8)).has_value());
}
