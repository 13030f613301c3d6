// What the fuzz targets share: how a broken property is told, and how the bytes of an input are read as a script.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "registry/model/text.hpp"

namespace fuzz {

/// Ends the run, with words, unless the property holds; libFuzzer then keeps the input.
inline void check(bool holds, const char* property, std::string_view shown = {}) {
  if (holds) return;
  std::fprintf(stderr, "BROKEN PROPERTY: %s\n%.*s\n", property, static_cast<int>(shown.size()), shown.data());
  __builtin_trap();
}

/// What is shown to people: bounded, UTF-8, no control characters.
inline void check_message(std::string_view text, std::size_t limit) {
  check(!text.empty() && text.size() <= limit, "a message is there, and bounded", text);
  check(registry::detail::is_utf8(text), "a message is UTF-8", text);
  check(!registry::detail::has_control(text), "a message has no control characters", text);
}

/// The bytes of an input, one decision after the other. Behind the end everything is 0.
class Script {
 public:
  Script(const std::uint8_t* data, std::size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool ended() const noexcept { return rest_.empty(); }
  unsigned byte() noexcept {
    if (rest_.empty()) return 0;
    const auto value = static_cast<unsigned char>(rest_.front());
    rest_.remove_prefix(1);
    return value;
  }
  /// 0 to count - 1.
  unsigned below(unsigned count) noexcept { return byte() % count; }
  bool one_in(unsigned count) noexcept { return below(count) == count - 1; }
  std::string_view take(std::size_t size) noexcept {
    const std::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(taken.size());
    return taken;
  }

 private:
  std::string_view rest_;
};

/// The lines of an input, without their ends; `count` of them, the last with all that is left.
inline std::vector<std::string> lines(const std::uint8_t* data, std::size_t size, std::size_t count) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  std::vector<std::string> all;
  while (all.size() + 1 < count) {
    const std::size_t end = rest.find('\n');
    all.emplace_back(rest.substr(0, end));
    rest.remove_prefix(end == rest.npos ? rest.size() : end + 1);
  }
  all.emplace_back(rest);
  return all;
}

}  // namespace fuzz
