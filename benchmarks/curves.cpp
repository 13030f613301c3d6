// How costs grow: with the instances of a service, the watches of a process, the services that it follows, the instances that it
// registers, and the processes that follow.
//   curves [--quick] [--json FILE]
//
// Each point has a process of its own, which connects, and then does one step after the other when this one says so. A step
// costs what the process has used from the word to the end of it: CPU time of all its threads, wall time, and the memory that it
// has more at the end: resident (RSS), and the part of that which malloc has handed out (heap); the rest is what malloc keeps for
// later. Beside it stands the CPU time of etcd. Each point is measured three times with new processes (registered: once; with
// --quick all once, and fewer of them); the figures are the medians (of the memory of etcd: the most).
//
// The store of each number is an etcd of its own that does not wait for its disk, on this machine. Instances have the
// metadata of the README, region and zone. Changes are puts of a changed value, one after the other, by this process.
//
//   instances   list: subscribe() until the first list of N instances is there.  change: 500 changes; nobody reads the
//               view.  read: 200 changes, one each 5 ms; a coroutine awaits next(), so each makes a new list
//   watchers    start: N watch() of one service of 100 instances, until each has its 100 events.  change: 500 changes,
//               until each watch has delivered all of them
//   services    list: subscribe() to N services of 10 instances, started together.  change: 1,000 changes, the services
//               in turn
//   registered  register: N register_instance() with a TTL of 30 s, started together (10,000 at a time), until all are
//               stored.  keep: the 10 s after that
//   processes   list: N Connectors with a Registry each, as N processes would have them, subscribe() to one service of 100
//               instances.  change: 100 changes; what matters here is what etcd needs
//
// Times of changes are for one of them.
#include <sys/resource.h>
#include <unistd.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <map>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "curves/common.hpp"
#include "curves/measured.hpp"
#include "instances.hpp"
#include "report.hpp"
#include "rig/etcd.hpp"
#include "rig/process.hpp"
#include "rig/raw_etcd.hpp"

namespace {

using namespace curves;

/// A step as the table names it, and the changes that it is about: at least one for each service. One without a name is
/// not reported: its changes show that the watches have begun, which is after the first list.
struct Step {
  std::string name;
  int changes = 0;
  std::chrono::milliseconds pause{0};
};

struct Curve {
  std::string name;
  std::vector<Step> steps;
  int services = 1, instances = 0;  // what is in the store; 0: the number itself
  std::vector<int> numbers;
};

std::vector<Curve> all_curves(bool quick) {
  const std::vector<int> small = quick ? std::vector{1, 10, 100} : std::vector{1, 10, 100, 1000};
  const std::vector<int> big = quick ? std::vector{100, 1000, 10000} : std::vector{100, 1000, 10000, 100000};
  return {
      {"instances", {{"list"}, {"", 1}, {"change", 500}, {"read", 200, 5ms}}, 1, 0, big},
      {"watchers", {{"start"}, {"", 1}, {"change", 500}}, 1, 100, small},
      {"services", {{"list"}, {"", 1}, {"change", 1000}}, 0, 10, small},
      {"registered", {{"register"}, {"keep"}}, 0, 0, big},
      {"processes", {{"list"}, {"", 1}, {"change", 100}}, 1, 100, small},
  };
}

/// The child and its pipes.
class Child {
 public:
  Child(const std::string& curve, int n, const std::string& endpoint) {
    std::array<int, 2> down{}, up{};
    if (::pipe(down.data()) != 0 || ::pipe(up.data()) != 0) throw std::runtime_error("no pipe");
    process_ = rig::Process({"/proc/self/exe", "--measured", curve, std::to_string(n), endpoint}, {}, down[0],
                            up[1], 2);
    ::close(down[0]);
    ::close(up[1]);
    to_ = ::fdopen(down[1], "w");
    from_ = ::fdopen(up[0], "r");
  }
  ~Child() {
    std::fclose(to_);
    std::fclose(from_);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  void begin() {
    std::fputs("go\n", to_);
    std::fflush(to_);
  }
  /// CPU and wall in ms, RSS and heap in MB.
  std::array<double, 4> end() {
    std::array<double, 4> costs{};
    if (std::fscanf(from_, "%lf %lf %lf %lf", &costs[0], &costs[1], &costs[2], &costs[3]) != 4)
      throw std::runtime_error("the process that is measured has ended early");
    return costs;
  }

 private:
  rig::Process process_;
  std::FILE *to_ = nullptr, *from_ = nullptr;
};

/// Writes instances; the bytes of their values.
std::size_t fill(rig::RawEtcd& etcd, int services, int instances) {
  std::vector<bench::Pair> pairs;
  std::size_t bytes = 0;
  for (int i = 0; i < services * instances; ++i) {
    pairs.push_back(bench::pair_of(instance(i / instances, i % instances)));
    bytes += pairs.back().second.size();
  }
  bench::fill(etcd, pairs);
  return bytes;
}

void change(rig::RawEtcd& etcd, const Step& step, int services, int instances) {
  auto next = Clock::now();
  const int changes = std::max(step.changes, services);
  for (int i = 0; i < changes; ++i) {
    const int number = i / services % instances;
    const auto [key, value] =
        bench::pair_of(instance(i % services, number, i + 1 < changes ? std::to_string(i) : last_version));
    bench::written(etcd, etcd.put(key, value).has_value());
    if (step.pause.count() > 0) std::this_thread::sleep_until(next += step.pause);
  }
}

/// Figures by name, as many as there were runs.
using Figures = std::map<std::string, std::vector<double>>;

void measure(const Curve& curve, int n, rig::Etcd& etcd, Figures& figures) {
  const int services = curve.services > 0 ? curve.services : n;
  const int instances = curve.instances > 0 ? curve.instances : n;
  rig::RawEtcd raw({etcd.endpoint()}, 60s);
  Child child(curve.name, n, etcd.endpoint());
  for (const Step& step : curve.steps) {
    const double cpu = bench::process_cpu(etcd.pid()), rss = rss_of(std::to_string(etcd.pid()));
    child.begin();
    if (step.changes > 0) change(raw, step, services, instances);
    const auto [used, wall, resident, handed_out] = child.end();
    if (step.name.empty()) continue;
    const double parts = step.changes > 0 ? step.changes : 1;
    figures[step.name + "/cpu"].push_back(used / parts);
    figures[step.name + "/wall"].push_back(wall / parts);
    figures[step.name + "/rss"].push_back(resident);
    figures[step.name + "/heap"].push_back(handed_out);
    figures[step.name + "/etcd cpu"].push_back((bench::process_cpu(etcd.pid()) - cpu) / 1e6 / parts);
    figures[step.name + "/etcd rss"].push_back(rss_of(std::to_string(etcd.pid())) - rss);
  }
}

/// Where all of this was measured.
std::string machine() {
  std::string line, processor = "?";
  for (std::ifstream info("/proc/cpuinfo"); std::getline(info, line);) {
    if (line.starts_with("model name")) processor = line.substr(line.find(':') + 2);
  }
  const char* const named = std::getenv("REGISTRY_ETCD");
  const std::string version = rig::run({named ? named : "etcd", "--version"}).out;
  return std::to_string(std::thread::hardware_concurrency()) + " x " + processor + ", " +
         version.substr(0, version.find('\n'));
}

/// A thousand connections need more files than a shell gives.
void allow_files() {
  rlimit files{};
  ::getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &files);
}

void run(bool quick, const std::string& file) {
  allow_files();
  boost::json::array rows;
  std::printf("%-12s %8s %-10s %12s %12s %10s %10s %12s\n", "curve", "N", "step", "CPU ms", "wall ms",
              "RSS MB", "heap MB", "etcd CPU ms");
  for (const Curve& curve : all_curves(quick)) {
    for (const int n : curve.numbers) {
      Figures figures;
      const int times = quick || curve.name == "registered" ? 1 : 3;
      rig::EtcdOptions options;
      options.heartbeat = 100ms;  // etcd's own: what it does at rest is in its CPU time, too
      options.election = 1000ms;
      rig::Etcd etcd(options);
      if (curve.name != "registered") {
        rig::RawEtcd raw({etcd.endpoint()}, 60s);
        const double before = rss_of(std::to_string(etcd.pid()));
        const auto bytes =
            fill(raw, curve.services > 0 ? curve.services : n, curve.instances > 0 ? curve.instances : n);
        figures["store/json"].push_back(static_cast<double>(bytes) / 1e6);
        figures["store/etcd rss"].push_back(rss_of(std::to_string(etcd.pid())) - before);
        figures["store/etcd file"].push_back(etcd.metric("etcd_mvcc_db_total_size_in_use_in_bytes") / 1e6);
      }
      for (int i = 0; i < times; ++i) measure(curve, n, etcd, figures);
      for (const Step& step : curve.steps) {
        if (step.name.empty()) continue;
        const auto of = [&](const char* what) { return bench::median(figures.at(step.name + what)); };
        std::printf("%-12s %8d %-10s %12.3f %12.3f %10.2f %10.2f %12.3f\n", curve.name.c_str(), n,
                    step.name.c_str(), of("/cpu"), of("/wall"), of("/rss"), of("/heap"), of("/etcd cpu"));
      }
      std::fflush(stdout);
      for (const auto& [name, values] : figures) {
        boost::json::object row;
        row["name"] = curve.name + "/" + name;
        row["n"] = n;
        // A server that has been asked once has its memory already.
        row["value"] = name.ends_with("etcd rss") ? *std::max_element(values.begin(), values.end())
                                                  : bench::median(values);
        row["unit"] = name.ends_with("cpu") || name.ends_with("wall") ? "ms" : "MB";
        rows.push_back(std::move(row));
      }
    }
  }
  if (file.empty()) return;
  boost::json::object all;
  all["benchmark"] = "curves";
  all["machine"] = machine();
  all["rows"] = std::move(rows);
  std::ofstream out(file);
  out << boost::json::serialize(all) << '\n';
  if (!out.flush()) throw std::runtime_error("cannot write " + file);
}

}  // namespace

int main(int argc, char** argv) try {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.size() == 4 && arguments[0] == "--measured")
    return measured(arguments[1], std::stoi(arguments[2]), arguments[3]);
  bool quick = false;
  std::string file;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (arguments[i] == "--quick") {
      quick = true;
    } else if (arguments[i] == "--json" && i + 1 < arguments.size()) {
      file = arguments[++i];
    } else {
      throw std::invalid_argument(arguments[i] + ": use [--quick] [--json FILE]");
    }
  }
  if (rig::skip_without_etcd()) return 0;
  run(quick, file);
} catch (const std::exception& error) {
  std::fprintf(stderr, "curves: %s\n", error.what());
  return 1;
}
