// The rows that benchmarks have written with --json, as one table:  table [--strict] [--json FILE] [--peer FILE] rows.json...
// Those with a budget first; what a peer of benchmarks/peers needs for the same stands in the notes. With --strict it fails, with 3, if a budget is over.
#include <boost/json/parse.hpp>

#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "report.hpp"

namespace {

boost::json::value read(const char* name) {
  std::ifstream file(name);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (text.empty()) throw std::runtime_error(std::string("cannot read ") + name);
  return boost::json::parse(text);
}

/// `peer`: {"benchmark": ..., "rows": [{"name": ..., "value": ..., "unit": ...}]}, in the units of the rows.
void add_peer(std::vector<bench::Row>& rows, const boost::json::object& peer) {
  for (const boost::json::value& each : peer.at("rows").as_array()) {
    for (bench::Row& row : rows) {
      if (each.at("name").as_string() != row.what || each.at("unit").as_string() != row.unit) continue;
      char text[80];
      std::snprintf(text, sizeof text, "%s: %.2f", peer.at("benchmark").as_string().c_str(),
                    each.at("value").to_number<double>());
      row.note += (row.note.empty() ? "" : "; ") + std::string(text);
    }
  }
}

}  // namespace

int main(int argc, char** argv) try {
#ifndef __OPTIMIZE__
  std::printf("not optimized: these figures mean nothing\n");
#endif
  std::vector<bench::Row> rows;
  std::string json;
  boost::json::value peer;
  bool strict = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument == "--strict") {
      strict = true;
    } else if (argument == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (argument == "--peer" && i + 1 < argc) {
      peer = read(argv[++i]);
    } else {
      const boost::json::value parsed = read(argv[i]);
      for (const boost::json::value& row : parsed.as_array()) rows.emplace_back(row.as_object());
    }
  }
  if (peer.is_object()) add_peer(rows, peer.as_object());
  std::stable_partition(rows.begin(), rows.end(),
                        [](const bench::Row& row) { return row.budget.has_value(); });
  bench::Table table;
  for (bench::Row& row : rows) table.add(std::move(row));
  table.write(json);
  std::printf("%zu of %zu budgets are over\n", table.over(), table.budgets());
  return strict && table.over() > 0 ? 3 : 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "table: %s\n", error.what());
  return 1;
}
