// An instance as the JSON value that genesis and kratos write with Go's encoding/json, byte for byte: fields
// in struct order, keys sorted, null for an empty map or list, HTML characters escaped.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include "registry/model/instance.hpp"
#include "registry/model/text.hpp"

namespace registry {

namespace detail {

// The ASCII characters that stand for themselves in a string.
inline constexpr auto plain_json = [] {
  std::array<bool, 128> plain{};
  for (std::size_t c = 0x20; c < plain.size(); ++c) plain[c] = true;
  for (const char c : {'"', '\\', '<', '>', '&'}) plain[static_cast<unsigned char>(c)] = false;
  return plain;
}();

// Go >= 1.22 writes \b and \f in short; older ones wrote \u0008 and \u000c. Readers take both.
inline void append_json_string(std::string& out, std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  const auto escape = [&](unsigned char c) { ((out += "\\u00") += hex[c >> 4]) += hex[c & 15]; };
  out += '"';
  std::size_t plain = 0;  // start of what needs no escape and is not copied yet
  std::size_t i = 0;
  const auto flush = [&] { out.append(text.data() + plain, i - plain); };
  while (i < text.size()) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x80) {
      if (plain_json[c]) {
        ++i;
        continue;
      }
      flush();
      switch (c) {
        case '"': out += "\\\""; break;
        case '\\': out += "\\\\"; break;
        case '\b': out += "\\b"; break;
        case '\f': out += "\\f"; break;
        case '\n': out += "\\n"; break;
        case '\r': out += "\\r"; break;
        case '\t': out += "\\t"; break;
        default: escape(c);
      }
      plain = ++i;
      continue;
    }
    const std::size_t length = utf8_length(text.substr(i));
    const std::string_view sequence = text.substr(i, length);
    if (length == 0) {
      flush();
      out += "\\ufffd";
      plain = ++i;
    } else if (sequence == "\u2028" || sequence == "\u2029") {
      flush();
      out += sequence == "\u2028" ? "\\u2028" : "\\u2029";
      plain = i += length;
    } else {
      i += length;
    }
  }
  flush();
  out += '"';
}

}  // namespace detail

/// The stored value of an instance. Any text is accepted; malformed UTF-8 becomes U+FFFD.
inline std::string encode(const ServiceInstance& instance) {
  std::string out;
  std::size_t size = 80 + instance.id.size() + instance.name.size() + instance.version.size();
  for (const auto& [key, value] : instance.metadata) size += key.size() + value.size() + 6;
  for (const auto& endpoint : instance.endpoints) size += endpoint.size() + 3;
  out.reserve(size);
  out += "{\"id\":";
  detail::append_json_string(out, instance.id);
  out += ",\"name\":";
  detail::append_json_string(out, instance.name);
  out += ",\"version\":";
  detail::append_json_string(out, instance.version);
  out += ",\"metadata\":";
  if (instance.metadata.empty()) {
    out += "null";
  } else {
    char before = '{';
    for (const auto& [key, value] : instance.metadata) {
      out += before;
      detail::append_json_string(out, key);
      out += ':';
      detail::append_json_string(out, value);
      before = ',';
    }
    out += '}';
  }
  out += ",\"endpoints\":";
  if (instance.endpoints.empty()) {
    out += "null";
  } else {
    char before = '[';
    for (const auto& endpoint : instance.endpoints) {
      out += before;
      detail::append_json_string(out, endpoint);
      before = ',';
    }
    out += ']';
  }
  out += '}';
  return out;
}

}  // namespace registry
