// Text that comes from outside: checking UTF-8, showing a piece of it in a message without trusting it, and writing it where
// only plain characters may stand.
#pragma once

#include <charconv>
#include <cstddef>
#include <string>
#include <string_view>
#include <system_error>

namespace registry::detail {

/// The length of the well-formed UTF-8 sequence at the start of `text`: 1 to 4, or 0 if there is none (no
/// surrogates, no overlong forms, nothing above U+10FFFF).
inline std::size_t utf8_length(std::string_view text) noexcept {
  if (text.empty()) return 0;
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned lead = byte(0);
  if (lead < 0x80) return 1;
  std::size_t length = 0;
  unsigned low = 0x80, high = 0xBF;  // allowed range of the second byte
  if (lead >= 0xC2 && lead <= 0xDF) {
    length = 2;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    length = 3;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    length = 4;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  }
  if (length == 0 || text.size() < length) return 0;
  if (byte(1) < low || byte(1) > high) return 0;
  for (std::size_t i = 2; i < length; ++i) {
    if (byte(i) < 0x80 || byte(i) > 0xBF) return 0;
  }
  return length;
}

inline bool is_utf8(std::string_view text) noexcept {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

inline bool is_control(char c) noexcept {
  const auto byte = static_cast<unsigned char>(c);
  return byte < 0x20 || byte == 0x7F;
}

inline bool has_control(std::string_view text) noexcept {
  for (const char c : text) {
    if (is_control(c)) return true;
  }
  return false;
}

/// `text` in double quotes for a message: at most `limit` bytes of it, control and malformed bytes as \xNN.
inline std::string quote(std::string_view text, std::size_t limit = 80) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string out = "\"";
  std::size_t used = 0;
  while (used < text.size()) {
    const std::size_t length = utf8_length(text.substr(used));
    if (used + (length == 0 ? 1 : length) > limit) break;
    // U+0080 to U+009F are control characters too, and some terminals obey them.
    const bool c1 = length == 2 && text[used] == '\xC2' && static_cast<unsigned char>(text[used + 1]) < 0xA0;
    if (length == 0 || c1 || is_control(text[used])) {
      const auto byte = static_cast<unsigned char>(text[used]);
      out += "\\x";
      out += hex[byte >> 4];
      out += hex[byte & 15];
      ++used;
      continue;
    }
    if (text[used] == '"' || text[used] == '\\') out += '\\';
    out += text.substr(used, length);
    used += length;
  }
  out += used < text.size() ? "\"... (" + std::to_string(text.size()) + " bytes)" : "\"";
  return out;
}

/// As it may stand in the path of a URI.
inline std::string percent_encoded(std::string_view text, std::string_view also_plain = {}) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '-' || c == '.' || c == '_' || c == '~' ||
                       also_plain.find(c) != std::string_view::npos;
    if (plain) {
      encoded += c;
    } else {
      encoded += '%';
      encoded += digits[byte >> 4];
      encoded += digits[byte & 15];
    }
  }
  return encoded;
}

/// The reverse; what is no "%41" stays as it is.
inline std::string percent_decoded(std::string_view text) {
  std::string decoded;
  while (!text.empty()) {
    unsigned char byte = 0;
    const char* const end = text.data() + 3;
    if (text.size() >= 3 && text[0] == '%') {
      const auto [stop, error] = std::from_chars(text.data() + 1, end, byte, 16);
      if (error == std::errc() && stop == end) {
        decoded += static_cast<char>(byte);
        text.remove_prefix(3);
        continue;
      }
    }
    decoded += text[0];
    text.remove_prefix(1);
  }
  return decoded;
}

}  // namespace registry::detail
