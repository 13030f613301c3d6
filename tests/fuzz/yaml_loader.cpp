// Settings from YAML. Properties: any text gives settings that validate() takes, or a std::system_error `invalid_argument`
// whose words name a line that the text has, can be shown, and tell neither what a variable of the environment held nor a
// password; comments and the order of reading change nothing; memory and time are bounded (by the flags of tools/fuzz.sh).
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "property.hpp"
#include "registry/config/yaml.hpp"

using registry::Settings;

namespace {

constexpr std::string_view secret = "hunter2-of-the-environment", password = "pass-phrase-of-the-file";
const std::string file = "service.yaml";

/// Empty: refused, in words that tell no secret.
std::optional<Settings> load(const std::string& text) {
  try {
    return registry::parse_settings(text, file);
  } catch (const std::system_error& error) {
    const std::string words = registry::detail::Problem(error).words;
    fuzz::check(error.code() == registry::errc::invalid_argument, "refused as invalid_argument", words);
    fuzz::check_message(words, 2000);
    fuzz::check(words.find(secret) == words.npos, "no error tells what a variable held", words);
    fuzz::check(words.find(password) == words.npos, "no error tells a password", words);
    fuzz::check(words.starts_with(file + ":"), "an error names the file", words);
    const auto lines = static_cast<long>(std::count(text.begin(), text.end(), '\n')) + 1;
    char* end = nullptr;
    const long line = std::strtol(words.c_str() + file.size() + 1, &end, 10);
    fuzz::check(line >= 1 && line <= lines + 1 && std::string_view(end).starts_with(": "), "and a line of it",
                words);
    return std::nullopt;
  }
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  return ::setenv("SECRET", secret.data(), 1) | ::setenv("POD_IP", "10.0.0.5", 1) | ::unsetenv("UNSET");
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (text.find(secret) != text.npos || text.find(password) != text.npos) return -1;  // told by itself

  if (const std::optional<Settings> settings = load(text)) {
    validate(*settings);
    const std::optional<Settings> again = load("# a comment\n" + text);
    // A directive or a byte order mark must come first, so it may be refused with a line before it.
    fuzz::check(!again || (*again == *settings && changed_fields(*settings, *again).empty()),
                "same text, same settings", text);
  }
  // The same below a password: whatever is wrong now, it is not told.
  load("etcd:\n  password: " + std::string(password) + "\n" + text);
  load("etcd:\n  password: ${SECRET}\n" + text);
  return 0;
}
