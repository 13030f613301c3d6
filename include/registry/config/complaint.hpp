// What a validate() says, `field = value: advice`, taken apart.
#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace registry::detail {

struct Complaint {
  std::string field, value, advice;

  Complaint(std::string what, std::string is, std::string instead)
      : field(std::move(what)), value(std::move(is)), advice(std::move(instead)) {}
};

/// Behind the quoted text that begins at `from`; `from` itself if none does.
inline std::size_t end_of_quoted(std::string_view text, std::size_t from) {
  if (from >= text.size() || text[from] != '"') return from;
  for (std::size_t i = from + 1; i < text.size(); ++i) {
    if (text[i] == '"') return i + 1;
    if (text[i] == '\\') ++i;
  }
  return text.size();
}

/// Empty if the words are not of that form. A value may be quoted, and a field may end with something quoted (`metadata
/// "key"`): both may then hold the marks that end them.
inline std::optional<Complaint> take_apart(std::string_view words) {
  const std::size_t quoted = std::min(words.find('"'), words.find(" = "));
  const std::size_t equals = words.find(" = ", end_of_quoted(words, quoted));
  if (equals == words.npos) return std::nullopt;
  const std::size_t value = equals + 3;
  const std::size_t colon = std::min(words.find(": ", end_of_quoted(words, value)), words.size());
  return Complaint(std::string(words.substr(0, equals)), std::string(words.substr(value, colon - value)),
                   std::string(words.substr(std::min(colon + 2, words.size()))));
}

}  // namespace registry::detail
