// A configuration file that is followed, with real files: as editors, shells and Kubernetes replace them.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <asio/io_context.hpp>
#include <asio/thread_pool.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "registry/async/sleep.hpp"
#include "registry/config/follow_settings.hpp"
#include "rig/eventually.hpp"
#include "rig/run.hpp"
#include "rig/temp_dir.hpp"

using namespace registry;
using namespace std::chrono_literals;
namespace fs = std::filesystem;

namespace {

struct Lines : Logger {
  void log(LogLevel level, std::string_view text) noexcept override {
    const std::lock_guard lock(mutex);
    constexpr std::string_view marks = "DIWE";
    all.push_back(std::string(1, marks[static_cast<std::size_t>(level)]) + " " + std::string(text));
  }
  std::vector<std::string> take() {
    const std::lock_guard lock(mutex);
    return std::exchange(all, {});
  }
  bool empty() {
    const std::lock_guard lock(mutex);
    return all.empty();
  }
  std::mutex mutex;
  std::vector<std::string> all;
};

struct Counts : Metrics {
  void add(const Metric& metric, std::string_view, double amount) noexcept override {
    if (metric.name == metric::configuration_reloads.name) reloads += static_cast<int>(amount);
    if (metric.name == metric::configuration_failures.name) failures += static_cast<int>(amount);
  }
  std::atomic<int> reloads = 0, failures = 0;
};

std::string weighing(int weight, const std::string& more = "") {
  return "instance:\n  id: user-1\n  name: user-service\n  weight: " + std::to_string(weight) + "\n" + more;
}

/// In place: opened, emptied, written, closed.
void write(const std::string& file, const std::string& text) {
  std::ofstream out(file);
  out << text;
}

/// As an editor does: written beside it, then renamed over it.
void replace(const std::string& file, const std::string& text) {
  write(file + "~new", text);
  fs::rename(file + "~new", file);
}

/// The inotify descriptors of this process.
std::size_t open_watches() {
  std::size_t count = 0;
  std::error_code closed;
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    count += fs::read_symlink(entry.path(), closed) == "anon_inode:inotify" ? 1 : 0;
  }
  return count;
}

asio::awaitable<std::optional<Settings>> take(Generator<Settings>& from) { return from.next(); }

/// One file that is followed on a context which runs only inside of these functions.
struct World {
  explicit World(const std::string& name = "service.yaml") : file(folder / name) {}

  void follow() { followed = follow_settings(io.get_executor(), file, Observer(lines, counts)); }
  void begin(int weight) {
    write(file, weighing(weight));
    follow();
    CHECK(next() == weight);
  }
  /// The weight that is yielded next; -1 at the end.
  int next() {
    const std::optional<Settings> settings = rig::run(io, take(followed));
    return settings ? static_cast<int>(settings->instance->weight()) : -1;
  }
  /// The next lines of the log, with "FILE" for its path.
  std::vector<std::string> logged() {
    rig::run(io, rig::until([this] { return !lines->empty(); }));
    auto all = lines->take();
    for (std::string& line : all) {
      for (std::size_t at; (at = line.find(file)) != line.npos;) line.replace(at, file.size(), "FILE");
    }
    return all;
  }
  /// Lets it see all that has happened: events are there at once.
  void settle() { rig::run(io, detail::sleep_for(50ms)); }
  bool silent() {
    settle();
    return !followed.try_next() && lines->empty();
  }

  const rig::TempDir folder;
  const std::string file;
  const std::shared_ptr<Lines> lines = std::make_shared<Lines>();
  const std::shared_ptr<Counts> counts = std::make_shared<Counts>();
  asio::io_context io;
  Generator<Settings> followed;
};

using Log = std::vector<std::string>;
const std::string kept = "; what was read before stays in force";

}  // namespace

TEST_CASE("config follow: what an event calls for") {
  using detail::judge;
  using detail::Stir;
  CHECK(judge(IN_CLOSE_WRITE, true) == Stir::Read);
  CHECK(judge(IN_MOVED_TO, true) == Stir::Read);
  CHECK(judge(IN_MOVED_TO | IN_ISDIR, false) == Stir::Read);
  CHECK(judge(IN_CREATE, false) == Stir::Read);
  CHECK(judge(IN_CREATE, true) == Stir::Look);
  CHECK(judge(IN_DELETE, false) == Stir::Look);
  CHECK(judge(IN_MOVED_FROM, true) == Stir::Look);
  CHECK(judge(IN_IGNORED, false) == Stir::Look);
  CHECK(judge(IN_Q_OVERFLOW, false) == Stir::Read);
  CHECK(judge(IN_UNMOUNT, false) == Stir::Read);
  CHECK(judge(IN_ATTRIB, true) == Stir::Look);
  CHECK(judge(IN_MODIFY, true) == Stir::Nothing);
}

TEST_CASE("config follow: first what is there, then what is written in place and what is renamed over it") {
  World world;
  world.begin(1);
  for (int weight = 2; weight < 8; weight += 2) {
    write(world.file, weighing(weight));
    CHECK(world.next() == weight);
    replace(world.file, weighing(weight + 1));
    CHECK(world.next() == weight + 1);
  }
  CHECK(world.silent());
}

TEST_CASE("config follow: a file that is being written is not read before it is closed") {
  World world;
  world.begin(1);
  {
    std::ofstream out(world.file);
    out << "instance:\n  id: user-1\n  name: user-service\n" << std::flush;  // valid, but not all
    CHECK(world.silent());
    out << "  weight: 2\n";
  }
  CHECK(world.next() == 2);
  // The same for a file that an editor moved away before it writes a new one (vim with backupcopy=no).
  fs::rename(world.file, world.file + "~");
  {
    std::ofstream out(world.file);
    out << "instance:\n  id: user-1\n  name: user-service\n" << std::flush;
    CHECK(world.silent());
    out << "  weight: 3\n";
  }
  fs::remove(world.file + "~");
  CHECK(world.next() == 3);
  CHECK(world.silent());
}

TEST_CASE("config follow: a folder mounted by Kubernetes, whose link ..data is swapped") {
  World world;
  const auto version = [&](int number) {
    const std::string name = "..2026_" + std::to_string(number);
    fs::create_directory(world.folder / name);
    write(world.folder / (name + "/service.yaml"), weighing(number));
    fs::create_symlink(name, world.folder / "..data_tmp");
    fs::rename(world.folder / "..data_tmp", world.folder / "..data");
    if (number > 1) fs::remove_all(world.folder / ("..2026_" + std::to_string(number - 1)));
  };
  version(1);
  fs::create_symlink("..data/service.yaml", world.file);
  world.follow();
  for (int number = 1; number < 5; ++number) {
    if (number > 1) version(number);
    CHECK(world.next() == number);
  }
  CHECK(world.silent());
}

TEST_CASE("config follow: a broken edit yields nothing and says why; a mended one goes on") {
  World world;
  world.begin(1);
  write(world.file, weighing(2, "etcd:\n  endpoints: [\"10.0.0.1:2379\", \"10.0.0.1\"]\n"));
  CHECK(world.logged() ==
        Log{"E FILE:6: etcd.endpoints[1] = \"10.0.0.1\": use host:port, http://host:port or "
            "https://host:port" +
            kept});
  replace(world.file, "instance: [\n");
  CHECK(world.logged() == Log{"E FILE:2: column 1: is not YAML: end of sequence flow not found" + kept});
  // The same text once more is no news.
  write(world.file, "instance: [\n");
  CHECK(world.silent());
  write(world.file, "");
  CHECK(world.logged() == Log{"E FILE:1: is empty: write {} if you want nothing but the defaults" + kept});
  // Back to what it was: nothing to yield, but good to know.
  write(world.file, weighing(1));
  CHECK(world.logged() == Log{"I FILE: is as it was"});
  CHECK(world.silent());
  write(world.file, "not: known\n");
  CHECK(world.logged().size() == 1);
  write(world.file, weighing(3));
  CHECK(world.next() == 3);
  CHECK(world.silent());
  CHECK(world.counts->reloads == 1);
  CHECK(world.counts->failures == 4);
}

TEST_CASE("config follow: a file that is gone, and comes back") {
  World world;
  world.begin(1);
  fs::remove(world.file);
  CHECK(world.logged() == Log{"W FILE: is gone" + kept});
  write(world.file, weighing(1));
  CHECK(world.logged() == Log{"I FILE: is as it was"});
  fs::rename(world.file, world.file + "~");
  CHECK(world.logged() == Log{"W FILE: is gone" + kept});
  replace(world.file, weighing(2));
  CHECK(world.next() == 2);
  fs::remove(world.file);
  CHECK(world.logged().size() == 1);
  fs::create_hard_link(world.file + "~", world.file);
  CHECK(world.next() == 1);  // a link is complete at once
  CHECK(world.silent());
}

TEST_CASE("config follow: a file that may be read only after its owner was set") {
  // The superuser may read everything: be somebody else meanwhile.
  struct Somebody {
    Somebody() {
      if (root) CHECK(::seteuid(65534) == 0);
    }
    ~Somebody() {
      if (root) CHECK(::seteuid(0) == 0);
    }
    const bool root = ::geteuid() == 0;
  };
  World world;
  fs::permissions(world.folder.path(), fs::perms(0755));
  world.begin(1);
  write(world.file + "~new", weighing(2));
  fs::permissions(world.file + "~new", fs::perms::none);
  fs::rename(world.file + "~new", world.file);
  {
    const Somebody somebody;
    CHECK(world.logged() == Log{"E FILE: cannot be read: Permission denied" + kept});
  }
  fs::permissions(world.file, fs::perms(0644));
  const Somebody somebody;
  CHECK(world.next() == 2);
}

TEST_CASE("config follow: a folder on the way that is gone, comes back, or is swapped") {
  World world("app/current/service.yaml");
  const std::string app = world.folder / "app";
  const auto release = [&](int number) {
    const std::string folder = app + "/release" + std::to_string(number);
    fs::create_directories(folder);
    write(folder + "/service.yaml", weighing(number));
    return folder;
  };
  release(1);
  fs::create_symlink("release1", app + "/current");
  world.follow();
  CHECK(world.next() == 1);
  // A link to a folder is swapped.
  release(2);
  fs::create_symlink(app + "/release2", app + "/next");
  fs::rename(app + "/next", app + "/current");
  CHECK(world.next() == 2);
  // Nothing is heard of the old one any more, and all of the new one.
  write(app + "/release1/service.yaml", weighing(9));
  CHECK(world.silent());
  write(app + "/release2/service.yaml", weighing(3));
  CHECK(world.next() == 3);
  // The folders vanish and come back, one by one.
  fs::rename(app, world.folder / "away");
  CHECK(world.logged() == Log{"W FILE: is gone" + kept});
  fs::create_directories(app + "/current");
  CHECK(world.silent());
  write(world.file, weighing(4));
  CHECK(world.next() == 4);
  fs::remove_all(app);
  CHECK(world.logged() == Log{"W FILE: is gone" + kept});
  fs::rename(world.folder / "away", app);
  CHECK(world.next() == 3);  // of release2, where the link leads again
  CHECK(world.silent());
}

TEST_CASE("config follow: written through another name of the same file") {
  World world;
  write(world.folder / "real.yaml", weighing(1));
  fs::create_directory(world.folder / "other");
  fs::create_hard_link(world.folder / "real.yaml", world.folder / "other/name.yaml");
  fs::create_symlink(world.folder / "real.yaml", world.file);
  world.follow();
  CHECK(world.next() == 1);
  write(world.folder / "real.yaml", weighing(2));
  CHECK(world.next() == 2);
  // No name on the path is touched: as a write from outside to one file mounted into a container.
  write(world.folder / "other/name.yaml", weighing(3));
  CHECK(world.next() == 3);
}

TEST_CASE("config follow: what says the same yields nothing; a slow consumer gets the newest") {
  World world;
  world.begin(1);
  write(world.file, "# a comment\n" + weighing(1));
  CHECK(world.silent());
  write(world.folder / "other.yaml", weighing(9));
  CHECK(world.silent());
  for (int weight = 2; weight < 6; ++weight) {
    write(world.file, weighing(weight));
    world.settle();
  }
  CHECK(world.next() == 5);
  // There and back again, unseen.
  write(world.file, weighing(6));
  world.settle();
  write(world.file, weighing(5));
  CHECK(world.silent());
}

TEST_CASE("config follow: more events than the system keeps") {
  World world;
  world.begin(1);
  std::size_t limit = 16384;
  std::ifstream("/proc/sys/fs/inotify/max_queued_events") >> limit;
  if (limit > 100'000) return;  // it would take long
  // Two names in turn: equal events in a row are kept once.
  for (std::size_t i = 0; i < limit; ++i) {
    const std::string name = world.folder / (i % 2 == 0 ? "a" : "b");
    ::close(::open(name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
  }
  replace(world.file, weighing(2));  // of this one there is no event any more
  CHECK(world.next() == 2);
  write(world.file, weighing(3));
  CHECK(world.next() == 3);
}

TEST_CASE("config follow: a server does not start with a broken file, or with none") {
  World world;
  const std::size_t before = open_watches();
  CHECK_THROWS_WITH_AS(world.follow(), doctest::Contains("cannot be read"), std::system_error);
  write(world.file, "log_level: loud\n");
  CHECK_THROWS_WITH_AS(world.follow(), doctest::Contains(":1: log_level"), std::system_error);
  CHECK(open_watches() == before);
}

TEST_CASE("config follow: a relative path stays what it was when the program goes elsewhere") {
  World world;
  const fs::path home = fs::current_path();
  fs::current_path(world.folder.path());
  write("service.yaml", weighing(1));
  world.followed = follow_settings(world.io.get_executor(), "service.yaml", Observer(world.lines));
  fs::current_path(home);
  CHECK(world.next() == 1);
  write(world.file, weighing(2));
  CHECK(world.next() == 2);
}

TEST_CASE("config follow: destroyed while it waits, nothing stays behind") {
  const std::size_t before = open_watches();
  World world;
  world.begin(1);
  bool ended = false;
  std::optional<Settings> last;
  auto waiting = [](Generator<Settings>& from, std::optional<Settings>& to) -> asio::awaitable<void> {
    to = co_await from.next();
  };
  asio::co_spawn(world.io, waiting(world.followed, last), [&](std::exception_ptr error) {
    CHECK_FALSE(error);
    ended = true;
  });
  world.io.restart();
  world.io.poll();
  CHECK_FALSE(ended);
  world.followed = Generator<Settings>();
  world.io.restart();
  world.io.run_for(20s);
  CHECK(world.io.stopped());  // nothing is left to do
  CHECK(ended);
  CHECK_FALSE(last);
  CHECK(open_watches() == before);
}

TEST_CASE("config follow: never used, or outliving its context, nothing stays behind") {
  const rig::TempDir folder;
  const std::string file = folder / "service.yaml";
  write(file, weighing(1));
  const std::size_t before = open_watches();
  {
    asio::io_context io;
    { const auto unused = follow_settings(io.get_executor(), file); }
    CHECK(open_watches() == before);
    CHECK(io.poll() == 0);
  }
  CHECK(open_watches() == before);
  {
    auto io = std::make_unique<asio::io_context>();
    auto used = follow_settings(io->get_executor(), file);
    auto unused = follow_settings(io->get_executor(), file);
    CHECK(rig::run(*io, take(used)));
    write(file, weighing(2));
    io.reset();
    CHECK(open_watches() == before + 1);  // of the unused one
    // What is opened now may get the number of what was closed, and is nobody else's to close.
    const int other = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(used.ended());
    CHECK_FALSE(used.try_next());
    CHECK(unused.try_next());  // that one was read before
    CHECK_FALSE(unused.try_next());
    CHECK(unused.ended());
    used = Generator<Settings>();
    CHECK(::close(other) == 0);
  }
  CHECK(open_watches() == before);
}

TEST_CASE("config follow: on threads, while a writer is busy, the last word arrives") {
  World world;
  write(world.file, weighing(0));
  asio::thread_pool pool(2);
  constexpr int rounds = 300;
  {
    auto followed = follow_settings(pool.get_executor(), world.file, Observer(world.lines));
    std::thread writer([&] {
      for (int weight = 1; weight <= rounds; ++weight) {
        if (weight % 3 == 0) {
          write(world.file, weighing(weight));
        } else {
          replace(world.file, weighing(weight));
        }
      }
    });
    int last = -1;
    bool backwards = false;
    while (last != rounds) {
      const std::optional<Settings> settings = rig::run(pool, take(followed));
      REQUIRE(settings);
      const int weight = settings->instance ? static_cast<int>(settings->instance->weight()) : 0;
      backwards = backwards || weight < last;
      last = weight;
    }
    CHECK_FALSE(backwards);
    writer.join();
  }
  pool.join();
}
