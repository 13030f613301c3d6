// The tables of the documentation are those of the code: faults and the tests that show them, metrics, errors. (The code in
// the pages is cut from tests/docs, see tools/snippets.py.)
#include <doctest/doctest.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include "registry/model/errors.hpp"
#include "registry/observe/metric.hpp"

namespace {

namespace fs = std::filesystem;
using Rows = std::set<std::string>;

std::string text_of(const fs::path& file) {
  std::ifstream in(file);
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

/// The first group of every match.
Rows found(const std::string& text, const char* pattern) {
  const std::regex regex(pattern);
  Rows rows;
  for (auto it = std::sregex_iterator(text.begin(), text.end(), regex); it != std::sregex_iterator(); ++it)
    rows.insert((*it)[1].str());
  return rows;
}

}  // namespace

TEST_CASE("docs: each row of the table of faults has a test of its name, and each such test a row") {
  const fs::path project = REGISTRY_PROJECT_DIR;
  const Rows documented = found(text_of(project / "docs/reliability.md"), R"(\n\| ([WLAR][0-9]+) \|)");
  CHECK(documented.size() >= 30);
  Rows tested;
  for (const auto& file : fs::directory_iterator(project / "tests/fault"))
    tested.merge(found(text_of(file.path()), R"re(TEST_CASE\(\s*"([WLAR][0-9]+)[ :])re"));
  CHECK(documented == tested);
}

TEST_CASE("docs: the table of metrics is the one in the code, and every metric is used") {
  const fs::path project = REGISTRY_PROJECT_DIR;
  std::string table;
  for (const registry::Metric& metric : registry::metric::all) {
    table += "| `" + std::string(metric.name) + "` | " +
             (metric.kind == registry::Metric::Kind::Counter ? "counter" : "gauge") + " | " +
             (metric.by_service ? "`service`" : "") + " | " + std::string(metric.help) + " |\n";
    const bool total = metric.name.ends_with("_total");
    CHECK_MESSAGE(total == (metric.kind == registry::Metric::Kind::Counter), metric.name);
    CHECK(metric.name.starts_with("registry_"));
  }
  CHECK(text_of(project / "docs/observability.md").find("|---|---|---|---|\n" + table + "\n") !=
        std::string::npos);
  // By the names of their constants.
  Rows declared =
      found(text_of(project / "include/registry/observe/metric.hpp"), R"(constexpr Metric (\w+)\{)");
  CHECK(declared.size() == registry::metric::all.size());
  Rows used;
  for (const auto& file : fs::recursive_directory_iterator(project / "include"))
    if (file.is_regular_file()) used.merge(found(text_of(file.path()), R"([^:]\bmetric::(\w+)\b)"));
  used.erase("all");
  CHECK(used == declared);
}

TEST_CASE("docs: the table of errors in docs/etcd.md has every code, once") {
  const fs::path project = REGISTRY_PROJECT_DIR;
  const Rows declared =
      found(text_of(project / "include/registry/model/errors.hpp"), R"(\n  (\w+)(?: = 1)?, +///<)");
  CHECK(declared.size() == static_cast<std::size_t>(registry::last_errc));
  Rows documented;
  for (const std::string& cell : found(text_of(project / "docs/etcd.md"), R"(\n\| (`[^|]+) \|)")) {
    for (const std::string& code : found(cell, "`(\\w+)`"))
      CHECK_MESSAGE(documented.insert(code).second, code);
  }
  CHECK(documented == declared);
}
