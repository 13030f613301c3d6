// The soak: writers, watches, views and registrations on a cluster with authentication, under a schedule of
// faults from a seed, for a given time. In the end everything must agree with an oracle that had nothing to
// do with the library.
//   registry_soak --minutes 10 --seed 1 [--seconds N] [--members 1|3] [--log FILE]
#include <unistd.h>
#if defined(__SANITIZE_ADDRESS__)
#include <cstddef>
// Its header is not among the packages that the tests need.
extern "C" std::size_t __sanitizer_get_current_allocated_bytes();
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "rig/cluster.hpp"
#include "rig/eventually.hpp"
#include "rig/net.hpp"
#include "rig/quiet_thread.hpp"
#include "soak/client.hpp"
#include "soak/faults.hpp"
#include "soak/schedule.hpp"
#include "soak/verdict.hpp"
#include "soak/writers.hpp"

namespace {

using namespace soak;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

struct Settings {
  std::chrono::milliseconds length = 60s;
  std::uint64_t seed = std::random_device()();
  std::size_t members = 3;
  std::string log;
};

Settings settings_of(int argc, char** argv) {
  Settings settings;
  const std::vector<std::string> args(argv + 1, argv + argc);
  for (std::size_t i = 0; i < args.size(); i += 2) {
    if (i + 1 == args.size()) throw std::invalid_argument(args[i] + " needs a value");
    const std::string& value = args[i + 1];
    if (args[i] == "--minutes")
      settings.length = std::chrono::minutes(std::stol(value));
    else if (args[i] == "--seconds")
      settings.length = std::chrono::seconds(std::stol(value));
    else if (args[i] == "--seed")
      settings.seed = std::stoull(value);
    else if (args[i] == "--members")
      settings.members = std::stoul(value);
    else if (args[i] == "--log")
      settings.log = value;
    else
      throw std::invalid_argument("unknown argument " + args[i]);
  }
  if (settings.members != 1 && settings.members != 3) throw std::invalid_argument("--members is 1 or 3");
  if (settings.log.empty()) {
    const auto name =
        "registry-soak-" + std::to_string(settings.seed) + "-" + std::to_string(::getpid()) + ".log";
    settings.log = fs::temp_directory_path() / name;
  }
  return settings;
}

std::size_t used_bytes() {
#if defined(__SANITIZE_ADDRESS__)
  return __sanitizer_get_current_allocated_bytes();  // it keeps what was freed resident for a while
#else
  std::ifstream in("/proc/self/statm");
  std::size_t all = 0, resident = 0;
  in >> all >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
#endif
}

std::size_t open_files() {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator("/proc/self/fd"), fs::directory_iterator()));
}

std::string mebibytes(std::size_t bytes) { return std::to_string(bytes >> 20) + " MiB"; }

rig::EtcdOptions etcd_options() {
  auto options = rig::Cluster::quick();
  options.root_password = "root";
  options.users = {{"svc", "pw", "/genesis/"}};
  options.auth_token_ttl = 5s;
  return options;
}

class Soak {
 public:
  explicit Soak(Settings settings)
      : settings_(std::move(settings)),
        journal_(settings_.log),
        stage_(journal_, settings_.seed),
        schedule_(make_schedule(settings_.seed, settings_.length, settings_.members, 2)) {}

  bool run() {
    cluster_.emplace(settings_.members, etcd_options());
    oracle_.emplace(cluster_->endpoints(), "/genesis/services/", rig::RawLogin{"root", "root"});
    for (std::size_t i = 0; i < 2; ++i) {
      clients_.push_back(std::make_unique<Client>(stage_, *pool_, i, cluster_->endpoints(), 30));
      pointers_.push_back(clients_.back().get());
    }
    looker_ = rig::quiet_thread([this] { look(); });
    for (auto* client : pointers_) client->start();
    {
      Writers writers(stage_, cluster_->endpoints(), 3);
      faults_.emplace(stage_, *cluster_, pointers_, *oracle_);
      try {
        storm();
      } catch (...) {
        stage_.stop = true;
        throw;
      }
      stage_.stop = stage_.hurry = true;
      say("lifting all faults");
      faults_->lift();
    }
    settle();
    finish();
    verdict_.print();
    if (!verdict_.clean()) keep_logs();
    std::string kinds;
    for (const auto& [kind, count] : faults_->counts()) kinds += " " + kind + " " + std::to_string(count);
    std::printf("\nfaults:%s\neverything with its time: %s\nseed %llu: %s\n", kinds.c_str(),
                journal_.path().c_str(), static_cast<unsigned long long>(settings_.seed),
                verdict_.clean() ? "CLEAN" : "NOT CLEAN");
    return verdict_.clean();
  }

  ~Soak() {
    stage_.stop = stage_.hurry = looked_ = true;
    if (looker_.joinable()) looker_.join();
  }

 private:
  void say(const std::string& text) {
    journal_.line(text);
    std::printf("%s\n", text.c_str());
    std::fflush(stdout);
  }

  // Views, and the oracle's events while they are fresh.
  void look() {
    for (std::size_t turn = 0; !looked_; ++turn) {
      {
        const std::lock_guard lock(looking_);
        for (auto* client : pointers_) client->sample();
        history_.add(oracle_->take());
        if (turn % 50 == 0) {
          std::size_t bytes = history_.bytes();
          for (auto* client : pointers_) bytes += client->bytes();
          recorded_ = bytes;
        }
      }
      std::this_thread::sleep_for(10ms);
    }
  }

  /// Without what we record ourselves.
  std::size_t memory() const { return used_bytes() - std::min(used_bytes(), recorded_.load()); }

  void storm() {
    const auto start = Clock::now();
    const auto step = settings_.length > 3min ? 60000ms : 10000ms;
    auto next_line = step;
    for (;;) {
      const auto now = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start);
      if (now >= settings_.length) break;
      faults_->step(now, schedule_);
      if (third_ == 0 && now >= settings_.length / 3) third_ = memory();
      if (now >= next_line) {
        next_line += step;
        std::size_t faults = 0;
        for (const auto& [kind, count] : faults_->counts()) faults += count;
        say(std::to_string(now.count() / 1000) + " s: revision " + std::to_string(oracle_->seen()) +
            ", writes " + std::to_string(stage_.writes) + " (failed " + std::to_string(stage_.failed_writes) +
            "), events " + std::to_string(stage_.events) + ", looks " + std::to_string(stage_.samples) +
            ", operations " + std::to_string(stage_.operations) + ", faults " + std::to_string(faults) +
            ", violations " + std::to_string(journal_.violations().size()) + ", memory " +
            mebibytes(memory()));
      }
      std::this_thread::sleep_for(5ms);
    }
    end_ = memory();
  }

  Final read() {
    rig::RawEtcd etcd(cluster_->endpoints());
    etcd.login("root", "root");
    Final store;
    store.keys = etcd.list("/genesis/services/", &store.revision);
    store.leases = etcd.leases();
    return store;
  }

  void settle() {
    const bool idle =
        rig::eventually([&] { return pointers_[0]->idle() && pointers_[1]->idle(); }, 60s, "actors end");
    verdict_.add("actors end when told to", "yes", idle ? "yes" : "no", idle);
    const auto from = Clock::now();
    Final store;
    // What writers put under leases has a few seconds to go away; from then on nothing changes any more.
    const auto at_rest = [&] {
      store = read();
      return std::none_of(store.keys.begin(), store.keys.end(), [](const rig::RawEvent& key) {
        return key.lease != 0 && key.key.find("/written-") != std::string::npos;
      });
    };
    const bool rest = rig::eventually(at_rest, 30s, "what nobody renews is gone");
    verdict_.add("keys whose lease nobody renews are gone", "yes", rest ? "yes" : "no", rest);
    std::vector<std::string> wrong;
    rig::eventually(
        [&] {
          store = read();
          {
            const std::lock_guard lock(looking_);
            wrong = disagreements(pointers_, store);
          }
          if (!wrong.empty()) return false;
          // The truth ends at a mark that nothing came before: who agreed has seen all of it.
          oracle_->finish();
          if (oracle_->marked() != store.revision + 1) wrong.push_back("the store still changes");
          return wrong.empty();
        },
        30s, "everything agrees with the store");
    const auto took = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - from).count();
    verdict_.none("30 s after the last fault everything agrees with the store", wrong,
                  std::to_string(store.keys.size()) + " keys");
    verdict_.add("  time that it took", "30 s at most", std::to_string(took) + " ms", wrong.empty());
    looked_ = true;
    looker_.join();
    history_.add(oracle_->take());
    rig::RawEtcd etcd(cluster_->endpoints());
    etcd.login("root", "root");
    const std::int64_t end = store.revision;
    history_.end_at(end);
    const auto oracle = judge_oracle(history_, etcd.list_at("/genesis/services/", end), stage_.names);
    verdict_.add("the oracle's own events lead to what is there", "yes", oracle.empty() ? "yes" : oracle,
                 oracle.empty());
    verdict_.none("during the run", journal_.violations());
    judge_logs(verdict_, pointers_, history_, end, stage_.names, journal_);
    judge_registrations(verdict_, pointers_, history_, faults_->interference(), stage_.names, journal_);
  }

  void finish() {
    const std::size_t before = journal_.violations().size();
    for (auto* client : pointers_) client->close();
    const auto late = journal_.violations();
    verdict_.none("close",
                  std::vector<std::string>(late.begin() + static_cast<std::ptrdiff_t>(before), late.end()));
    std::size_t keys = 0, leases = 0;
    rig::eventually(
        [&] {
          const Final store = read();
          leases = store.leases.size();
          keys = 0;
          for (const auto& each : store.keys)
            keys += each.key.find("/registered-") != std::string::npos ? 1 : 0;
          return leases + keys == 0;
        },
        15s, "no keys and leases are left");
    verdict_.add("keys of ours after close", "0", std::to_string(keys), keys == 0);
    verdict_.add("leases after close", "0", std::to_string(leases), leases == 0);
    oracle_.reset();
    for (std::size_t i = 0; i < cluster_->size(); ++i) {
      double watchers = -1;
      rig::eventually(
          [&] { return (watchers = (*cluster_)[i].metric("etcd_debugging_mvcc_watcher_total")) == 0; }, 10s,
          "no watchers are left");
      verdict_.add("watchers at member " + std::to_string(i), "0", std::to_string(static_cast<int>(watchers)),
                   watchers == 0);
    }
    clients_.clear();
    pointers_.clear();
    pool_->join();
    pool_.reset();
    // gRPC keeps a few for itself.
    std::size_t files = 0;
    rig::eventually([&] { return (files = open_files()) <= files_ + 24; }, 5s, "no files are left");
    verdict_.add("open files", std::to_string(files_ + 24) + " at most", std::to_string(files),
                 files <= files_ + 24);
    constexpr std::size_t slack = std::size_t(64) << 20;
    const std::size_t limit = third_ + third_ / 2 + slack;
    verdict_.add("memory at the end of the storm, without our records",
                 mebibytes(limit) + " (after a third: " + mebibytes(third_) + ")", mebibytes(end_),
                 end_ <= limit);
  }

  void keep_logs() {
    for (std::size_t i = 0; i < cluster_->size(); ++i) {
      std::error_code ignored;
      fs::copy_file((*cluster_)[i].log_file(), journal_.path() + ".m" + std::to_string(i),
                    fs::copy_options::overwrite_existing, ignored);
    }
    for (const auto& row : journal_.violations()) std::printf("violation: %s\n", row.c_str());
  }

  const std::size_t files_ = open_files();
  const Settings settings_;
  Journal journal_;
  Stage stage_;
  const Schedule schedule_;
  std::optional<asio::thread_pool> pool_{std::in_place, 2};
  std::optional<rig::Cluster> cluster_;
  std::optional<rig::Oracle> oracle_;
  std::vector<std::unique_ptr<Client>> clients_;
  std::vector<Client*> pointers_;
  std::optional<Faults> faults_;
  History history_{stage_.names};
  std::mutex looking_;  // views, and the history
  std::atomic<std::size_t> recorded_{0};
  std::atomic<bool> looked_{false};
  std::thread looker_;
  Verdict verdict_;
  std::size_t third_ = 0, end_ = 0;
};

}  // namespace

int main(int argc, char** argv) {
  try {
    const Settings settings = settings_of(argc, argv);
    std::printf("seed %llu, %lld s, %zu members\n", static_cast<unsigned long long>(settings.seed),
                static_cast<long long>(settings.length.count() / 1000), settings.members);
    std::fflush(stdout);
    if (rig::skip_without_etcd()) return 0;
    return Soak(settings).run() ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "soak: %s\n", error.what());
    return 2;
  }
}
