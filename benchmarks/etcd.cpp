// What the library needs for its work at etcd, beside the floor: bare gRPC that does the same, see floor/etcd.hpp.
//   etcd [--only watch|list|register|renew] [--scale 3] [--json FILE]
//
// Each row measures floor and library in turns, in pairs; the ratio is the median of the pairs' ratios. A greater --scale makes
// more pairs. The rows have an etcd of their own each, on this machine, without TLS; it does not wait for its disk. What is
// wrong makes the run fail: lost or repeated events, instances that are missing. A budget that is not kept does not.
//
// An event: the floor reads the stream, parses each value and drops it; the library's consumer awaits Registry::watch. Each follows
// in a process of its own, whose CPU time counts; neither that of etcd nor that of the writer does. Changes come live. In one
// row those of 100 instances have one revision and come in one message, as when a fleet restarts whose registrations the library
// commits together; in the other each comes by itself, and most of what is measured is the waking of threads. The floor blocks a thread, which no
// coroutine can; rows of "bare callbacks" stand in the column of the library to show what gRPC's callback API costs
// beside that with nothing built upon it, and with each event handed to the thread of an Asio executor.
//
// A list: wall time of subscribe() against the pages one after the other. Registrations: wall time until all are stored; the
// instances are taken away between two measurements, and counted. Renewals: counted by etcd.
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>

#include "etcd/follower.hpp"
#include "etcd/list_rows.hpp"
#include "etcd/registration_rows.hpp"
#include "etcd/watch_rows.hpp"
#include "report.hpp"
#include "rig/etcd.hpp"
#include "rig/raw_etcd.hpp"

namespace {

void measure(const bench::Arguments& arguments) {
  const std::string only = arguments.text("--only");
  const auto scale = static_cast<int>(arguments.number("--scale", 3));
  if (scale < 1) throw std::invalid_argument("--scale is at least 1");
  bench::Table table;
  bool any = false;
  const auto part = [&](const char* name, auto rows) {
    if (!only.empty() && only != name) return;
    any = true;
    rig::Etcd server;
    rig::RawEtcd etcd({server.endpoint()}, std::chrono::seconds(10));
    rows(server, etcd);
  };
  part("watch", [&](auto& server, auto& etcd) { bench::watch_rows(table, etcd, server.endpoint(), scale); });
  part("list", [&](auto& server, auto& etcd) { bench::list_rows(table, etcd, server.endpoint(), scale); });
  part("register", [&](auto& server, auto& etcd) { bench::registration_rows(table, server, etcd, scale); });
  part("renew", [&](auto& server, auto& etcd) { bench::renewal_rows(table, server, etcd); });
  if (!any) throw std::invalid_argument("--only " + only + ": watch, list, register, renew");
  table.write(arguments.text("--json"));
}

}  // namespace

int main(int argc, char** argv) try {
  const bench::Arguments arguments(
      argc, argv,
      {"--only", "--scale", "--json", "--follow", "--endpoint", "--present", "--step", "--total"});
  if (!arguments.text("--follow").empty()) {
    bench::follow(arguments);
    return 0;
  }
  if (rig::skip_without_etcd()) return 1;
  measure(arguments);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "etcd: %s\n", error.what());
  return 1;
}
