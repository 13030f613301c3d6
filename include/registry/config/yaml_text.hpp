// A YAML text on its way to the parser and back: what is not even given to it, and its errors without anything that the
// text says. Needs yaml-cpp.
#pragma once

#include <yaml-cpp/depthguard.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cstddef>
#include <sstream>
#include <string>
#include <string_view>

#include "registry/model/errors.hpp"
#include "registry/model/text.hpp"

namespace registry::detail {

/// Bytes of a configuration file. The parser needs some 400 bytes of memory for each.
inline constexpr std::size_t max_settings_size = 256 * 1024;

/// "service.yaml:7: what is wrong". Lines count from 1.
[[noreturn]] inline void fail_at(const std::string& file, std::size_t line, const std::string& what) {
  fail(errc::invalid_argument, file + ":" + std::to_string(line) + ": " + what);
}

[[noreturn]] inline void fail_too_large(const std::string& file) {
  fail(errc::invalid_argument, file + ": holds more than " + std::to_string(max_settings_size) +
                                   " bytes, which no configuration does");
}

/// What is no text: yaml-cpp would read on, or take an 0x04 for the end of the file.
inline void check_plain_text(std::string_view text, const std::string& file) {
  if (text.size() > max_settings_size) fail_too_large(file);
  std::size_t line = 1;
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    const bool white = text[0] == '\n' || text[0] == '\r' || text[0] == '\t';
    if (length == 0) fail_at(file, line, "is not valid UTF-8");
    if (is_control(text[0]) && !white) fail_at(file, line, "has a control character: leave it out");
    if (text[0] == '\n') ++line;
    text.remove_prefix(length);
  }
}

/// Counts the documents of a text.
class DocumentCounter final : public YAML::EventHandler {
 public:
  std::size_t line = 1;  ///< where the last one begins

  void OnDocumentStart(const YAML::Mark& mark) override {
    line = static_cast<std::size_t>(std::max(mark.line, 0)) + 1;
  }
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t, const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t, YAML::EmitterStyle::value) override {
  }
  void OnMapEnd() override {}
};

/// The root of the one document that the text must hold. yaml-cpp bounds the depth at 500; what walks its nodes afterwards
/// goes along the known keys and never deeper.
inline YAML::Node parse_yaml(std::string_view text, const std::string& file) {
  check_plain_text(text, file);
  const std::string copy(text);
  YAML::Node root;
  try {
    // Not YAML::LoadAll: after a stray comma it finds documents without end.
    std::istringstream in(copy);
    YAML::Parser parser(in);
    DocumentCounter documents;
    if (parser.HandleNextDocument(documents)) root.reset(YAML::Load(copy));
    if (parser.HandleNextDocument(documents)) {
      fail_at(file, documents.line, "a second document begins here: use one");
    }
  } catch (const YAML::DeepRecursion& error) {
    fail_at(file, static_cast<std::size_t>(error.mark.line) + 1, "nests too deep");
  } catch (const YAML::Exception& error) {
    // Behind a colon it quotes the file, and that may be a piece of a password.
    const std::string words = error.msg.substr(0, error.msg.find(':'));
    fail_at(file, static_cast<std::size_t>(std::max(error.mark.line, 0)) + 1,
            "column " + std::to_string(std::max(error.mark.column, 0) + 1) + ": is not YAML: " + words);
  }
  if (root.IsNull()) fail_at(file, 1, "is empty: write {} if you want nothing but the defaults");
  return root;
}

}  // namespace registry::detail
