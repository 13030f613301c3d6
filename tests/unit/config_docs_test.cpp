// docs/configuration.md: its example loads and names every key, and its table has the keys and defaults of the code.
#include <doctest/doctest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>
#include <system_error>

#include "registry/config/yaml.hpp"

using namespace registry;
using namespace std::chrono_literals;

namespace {

std::string page() {
  std::ifstream in(REGISTRY_PROJECT_DIR "/docs/configuration.md");
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

}  // namespace

TEST_CASE("config docs: the example loads, and leaves out no key") {
  const std::string text = page();
  const std::size_t begin = text.find("```yaml\n"), end = text.find("\n```", begin);
  REQUIRE(begin != text.npos);
  const std::string example = text.substr(begin + 8, end - begin - 7);
  CHECK_THROWS_AS(parse_settings(example, "example.yaml"), std::system_error);  // its variables are not set
  ::setenv("ETCD_PASSWORD", "secret", 1);
  ::setenv("POD_NAME", "user-7", 1);
  ::setenv("POD_IP", "10.0.0.5", 1);
  const Settings settings = parse_settings(example, "example.yaml");
  CHECK(settings.etcd.endpoints.size() == 3);
  CHECK(settings.etcd.password == "secret");
  CHECK(settings.instance->id == "user-7");
  CHECK(settings.instance->endpoints.front() == "grpc://10.0.0.5:9001");
  CHECK(settings.ttl == 15s);
  std::set<std::string> named;
  const detail::FieldTexts texts(settings);
  const detail::KnownKeys known;
  for (const auto& [path, value] : texts.all()) {
    if (!value.empty()) named.insert(path);
  }
  for (const std::string& path : known.values()) CHECK_MESSAGE(named.contains(path), path);
  // Written out, not only the default: each key is in the text.
  for (const std::string& path : known.values()) {
    CHECK_MESSAGE(example.find(path.substr(path.rfind('.') + 1) + ":") != example.npos, path);
  }
  for (const char* name : {"ETCD_PASSWORD", "POD_NAME", "POD_IP"}) ::unsetenv(name);
}

TEST_CASE("config docs: the table has every key, and its defaults are the defaults") {
  const std::string text = page();
  const std::regex row(R"(\n\| `([a-z_.]+)` \| (?:`([^`]*)`)? ?\|)");
  std::set<std::string> documented;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), row); it != std::sregex_iterator(); ++it) {
    const std::string path = (*it)[1], value = (*it)[2];
    CAPTURE(path);
    CHECK(documented.insert(path).second);
    const bool optional = path.starts_with("etcd.tls.") || path.starts_with("instance.");
    CHECK(value.empty() == optional);
    if (optional) continue;
    std::string yaml = path + ": " + value + "\n";
    if (const std::size_t dot = path.find('.'); dot != path.npos) yaml.replace(dot, 1, ":\n  ");
    CHECK(parse_settings(yaml, "table") == Settings());
  }
  const detail::KnownKeys known;
  CHECK(documented == known.values());
}

TEST_CASE("config docs: the configurations of the examples load") {
  for (const auto& file : std::filesystem::directory_iterator(REGISTRY_PROJECT_DIR "/examples")) {
    if (file.path().extension() != ".yaml") continue;
    CAPTURE(file.path().string());
    CHECK_NOTHROW(load_settings(file.path()));
  }
}
