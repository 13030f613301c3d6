// The key layout: keys, ranges, and which keys are instances.
#include <doctest/doctest.h>

#include <string>
#include <system_error>

#include "registry/model/keys.hpp"

using registry::InstanceKey;
using registry::KeyLayout;

TEST_CASE("keys: genesis' layout, with and without a group") {
  CHECK(KeyLayout().key_of("user-service", "user-1") == "/genesis/services/user-service/user-1");
  CHECK(KeyLayout("/n", "g").key_of("s", "i") == "/n/g/s/i");
}

TEST_CASE("keys: a service's range holds its keys and nobody else's") {
  const KeyLayout layout("/n");
  const auto range = layout.service_range("user");
  CHECK(range.begin == "/n/user/");
  CHECK(range.end == "/n/user0");
  CHECK(range.contains("/n/user/1"));
  CHECK(range.contains("/n/user/\xff\xff"));
  CHECK_FALSE(range.contains("/n/user"));
  CHECK_FALSE(range.contains("/n/user-admin/1"));
  CHECK_FALSE(range.contains("/n/users/1"));
  const auto all = layout.all_range();
  CHECK(all.contains("/n/user/1"));
  CHECK(all.contains("/n/\xff/1"));
  CHECK_FALSE(all.contains("/nn/user/1"));
  CHECK_FALSE(KeyLayout("/n", "g").all_range().contains("/n/h/user/1"));
}

TEST_CASE("keys: what parses is an instance of this layout") {
  const KeyLayout plain("/n");
  CHECK(plain.parse("/n/s/i") == InstanceKey("s", "i"));
  for (const char* key : {"", "/n", "/n/", "/n/s", "/n/s/", "/n//i", "/n/s/i/more", "/n/s/i/", "/m/s/i",
                          "n/s/i", "/ns/i/x", "/n/g/s/i"}) {
    CAPTURE(key);
    CHECK_FALSE(plain.parse(key).has_value());
  }
  const KeyLayout grouped("/n", "g");
  CHECK(grouped.parse("/n/g/s/i") == InstanceKey("s", "i"));
  CHECK_FALSE(grouped.parse("/n/g/i").has_value());
  CHECK_FALSE(grouped.parse("/n/h/s/i").has_value());
  CHECK_FALSE(grouped.parse("/n/g/s/i/more").has_value());
}

TEST_CASE("keys: prefix_end is the first key behind a prefix") {
  CHECK(registry::prefix_end("/a/") == "/a0");
  CHECK(registry::prefix_end(std::string("a\xff\xff")) == "b");
  CHECK(registry::prefix_end(std::string("a\xfe")) == "a\xff");
  CHECK(registry::prefix_end(std::string("\x7f")) == "\x80");
  CHECK_THROWS_AS(registry::prefix_end(""), std::system_error);
  CHECK_THROWS_AS(registry::prefix_end("\xff\xff"), std::system_error);
}
