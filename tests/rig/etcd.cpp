// The life of one etcd process.
#include <fcntl.h>
#include <signal.h>

#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>
#include <mutex>

#include "etcd_state.hpp"

namespace rig {
namespace {

namespace fs = std::filesystem;

std::string from_env(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::string find_etcd(const std::string& binary) {
  if (!binary.empty()) return find_program(binary);
  const auto named = from_env("REGISTRY_ETCD");
  return find_program(named.empty() ? "etcd" : named);
}

std::string find_etcdctl(const std::string& etcd) {
  const auto named = from_env("REGISTRY_ETCDCTL");
  if (!named.empty()) return find_program(named);
  const auto beside = find_program((fs::path(etcd).parent_path() / "etcdctl").string());
  return beside.empty() ? find_program("etcdctl") : beside;
}

/// 3.4.23 knows --unsafe-no-fsync, too, but does not list it: ask by using it.
bool knows(const std::string& binary, const std::string& flag) {
  static std::mutex mutex;
  static std::map<std::string, bool> known;
  const std::lock_guard lock(mutex);
  const auto [at, is_new] = known.try_emplace(binary + flag, false);
  if (is_new) at->second = run({binary, flag, "--version"}).ok();
  return at->second;
}

}  // namespace

std::string EtcdState::tail(std::size_t lines) const {
  std::ifstream in(dir / "etcd.log");
  std::deque<std::string> last;
  for (std::string line; std::getline(in, line);) {
    if (line.find("/health error") != std::string::npos) continue;  // that was us, waiting
    last.push_back(std::move(line));
    if (last.size() > lines) last.pop_front();
  }
  std::string all;
  for (const auto& line : last) all += line + "\n";
  return all;
}

void EtcdState::fail(const std::string& what) const {
  throw EtcdError("etcd '" + options.name + "' at " + client->endpoint() + ": " + what +
                  "\nend of its log:\n" + tail(25));
}

std::vector<std::string> EtcdState::command() const {
  const auto url = scheme() + "://" + client->endpoint();
  const auto peer_url = "http://" + peer->endpoint();
  std::vector<std::string> argv{
      binary,
      "--name=" + options.name,
      "--data-dir=" + (dir / "data"),
      "--listen-client-urls=" + url,
      "--advertise-client-urls=" + (options.advertise.empty() ? url : scheme() + "://" + options.advertise),
      "--listen-peer-urls=" + peer_url,
      "--initial-advertise-peer-urls=" + peer_url,
      "--initial-cluster=" + (options.cluster.empty() ? options.name + "=" + peer_url : options.cluster),
      "--initial-cluster-token=" + options.token,
      "--listen-metrics-urls=http://" + metrics->endpoint(),
      "--heartbeat-interval=" + std::to_string(options.heartbeat.count()),
      "--election-timeout=" + std::to_string(options.election.count()),
      "--auth-token-ttl=" + std::to_string(options.auth_token_ttl.count()),
      "--bcrypt-cost=4",  // a login costs 1 ms, not 50
      "--logger=zap",
      "--log-outputs=stderr",
  };
  // Killing a process loses nothing that it has written to a file, so there is no need to wait for the disk.
  if (knows(binary, "--unsafe-no-fsync")) argv.push_back("--unsafe-no-fsync");
  if (const auto& tls = options.tls) {
    argv.insert(argv.end(), {"--cert-file=" + tls->cert, "--key-file=" + tls->key});
    if (tls->mutual) argv.insert(argv.end(), {"--client-cert-auth", "--trusted-ca-file=" + tls->ca});
  }
  argv.insert(argv.end(), options.flags.begin(), options.flags.end());
  return argv;
}

void EtcdState::spawn() {
  const Fd in(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  const Fd log(::open((dir / "etcd.log").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  process = Process(command(), {}, in.get(), log.get(), log.get());
}

void EtcdState::wait_ready(std::chrono::milliseconds deadline) {
  const auto end = std::chrono::steady_clock::now() + deadline;
  for (;;) {
    if (!process.running()) fail("exited with " + std::to_string(process.code()) + " instead of starting");
    try {
      const auto health = http_get(metrics->endpoint(), "/health", std::chrono::seconds(2));
      if (health.find("true") != std::string::npos) {
        const Socket reachable(client->endpoint(), std::chrono::seconds(2));
        return;
      }
    } catch (const std::exception&) {
      // not listening yet, or no leader yet
    }
    if (std::chrono::steady_clock::now() >= end)
      fail("not ready within " + std::to_string(deadline.count()) + " ms");
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

void EtcdState::stop() { process.kill(); }

Etcd::Etcd(EtcdOptions options) : Etcd(std::move(options), std::make_shared<const Port>()) {
  // Ports were free a moment ago; should another program have taken one since, others will do.
  for (int attempt = 0;; ++attempt) {
    start();
    try {
      wait_ready();
      break;
    } catch (const EtcdError&) {
      const bool port_taken = log_tail().find("address already in use") != std::string::npos;
      if (attempt == 3 || running() || !port_taken) throw;
      state_->new_ports();
      state_->wipe();
    }
  }
  state_->first_use(*this);
}

Etcd::Etcd(EtcdOptions options, std::shared_ptr<const Port> peer_port) : state_(std::make_unique<State>()) {
  auto& s = *state_;
  s.options = std::move(options);
  s.binary = find_etcd(s.options.binary);
  if (s.binary.empty()) throw EtcdError("no etcd server binary (REGISTRY_ETCD, or etcd in PATH)");
  s.etcdctl = find_etcdctl(s.binary);
  if (s.etcdctl.empty()) throw EtcdError("no etcdctl (REGISTRY_ETCDCTL, or etcdctl in PATH)");
  s.new_ports();
  s.peer = std::move(peer_port);
}

Etcd::~Etcd() = default;
Etcd::Etcd(Etcd&&) noexcept = default;
Etcd& Etcd::operator=(Etcd&&) noexcept = default;

bool Etcd::available(const std::string& binary) { return !find_etcd(binary).empty(); }

void Etcd::start() {
  if (running()) throw EtcdError("etcd '" + state_->options.name + "' runs already");
  state_->spawn();
}

void Etcd::wait_ready(std::chrono::milliseconds deadline) { state_->wait_ready(deadline); }

void Etcd::kill() { state_->stop(); }

void Etcd::terminate(bool wait) {
  state_->process.signal(SIGTERM);
  if (wait && !state_->process.wait(std::chrono::seconds(20))) state_->fail("still there 20 s after SIGTERM");
}

void Etcd::pause() { state_->process.pause(); }

void Etcd::resume() { state_->process.resume(); }

void Etcd::restart() {
  kill();
  start();
  wait_ready();
}

void Etcd::restart_wiped(const std::string& token) {
  kill();
  state_->wipe();
  if (!token.empty()) state_->options.token = token;
  start();
  wait_ready();
  state_->first_use(*this);
}

std::string Etcd::backup() {
  terminate();
  const auto to = state_->dir / ("backup" + std::to_string(++state_->backups));
  fs::copy(state_->dir / "data", to, fs::copy_options::recursive);
  restart();
  return to;
}

void Etcd::restart_from(const std::string& backup) {
  kill();
  fs::remove_all(state_->dir / "data");
  fs::copy(backup, state_->dir / "data", fs::copy_options::recursive);
  restart();
}

bool Etcd::running() { return state_->process.running(); }
bool Etcd::paused() const { return state_->process.paused(); }
int Etcd::pid() const { return state_->process.pid(); }
std::string Etcd::endpoint() const { return state_->client->endpoint(); }
std::string Etcd::url() const { return state_->scheme() + "://" + endpoint(); }
std::string Etcd::peer_url() const { return "http://" + state_->peer->endpoint(); }
std::string Etcd::metrics_endpoint() const { return state_->metrics->endpoint(); }
const EtcdOptions& Etcd::options() const { return state_->options; }
std::string Etcd::log_tail(std::size_t lines) const { return state_->tail(lines); }
std::string Etcd::log_file() const { return state_->dir / "etcd.log"; }

bool skip_without_etcd() {
  if (Etcd::available()) return false;
  std::cerr << "SKIPPED: no etcd server binary (REGISTRY_ETCD, or etcd in PATH)" << std::endl;
  return true;
}

}  // namespace rig
