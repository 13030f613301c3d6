// A real etcd server under the control of a test:
// `Etcd etcd; etcd.put("/a", "1"); etcd.pause(); etcd.resume(); etcd.kill(); etcd.restart();`
// Whatever fails throws EtcdError, with the end of the server's log.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "certs.hpp"
#include "net.hpp"
#include "process.hpp"
#include "temp_dir.hpp"

namespace rig {

struct EtcdError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// May read and write the keys that start with `prefix`.
struct EtcdUser {
  std::string name, password, prefix;
};

struct EtcdOptions {
  std::string binary = {};  // default: REGISTRY_ETCD, or etcd from PATH; and the etcdctl beside it
  std::vector<std::string> flags = {};  // further flags, these win: "--max-request-bytes=10485760"
  // A tenth of etcd's own, for a quick start; a single server elects itself however slow it is. The shortest
  // lease TTL it grants is 1.5 elections rounded up to seconds: 1 s here, 2 s with etcd's own.
  std::chrono::milliseconds heartbeat{10}, election{100};
  std::chrono::seconds auth_token_ttl{300};
  std::optional<ServerTls> tls = {};
  std::string root_password = {};  // not empty: enable_auth() once started on an empty store
  std::vector<EtcdUser> users = {};
  std::string advertise = {};  // client endpoint told to others (a Gate's); default: our own
  std::chrono::milliseconds ctl_timeout{5000};
  std::string name = "rig", token = "rig";
  std::string cluster = {};  // "name=peer url,..." when there are other members
};

struct EtcdEntry {
  std::string key, value;
  std::int64_t create_revision = 0, mod_revision = 0, version = 0, lease = 0;
};

/// One server with its data. Control it (start ... restart) from one thread at a time; asking (ctl, put,
/// metric, ...) is safe from any. Ports stay the same, and stay reserved, for the life of the object.
class Etcd {
 public:
  /// Starts it and waits until it answers.
  explicit Etcd(EtcdOptions options = {});
  /// For a member that waits for others: `start()` does not wait.
  Etcd(EtcdOptions options, std::shared_ptr<const Port> peer_port);
  ~Etcd();
  Etcd(Etcd&&) noexcept;
  Etcd& operator=(Etcd&&) noexcept;

  /// Is there a server to run? `if (rig::skip_without_etcd()) return;` at the start of a test says so when
  /// not.
  static bool available(const std::string& binary = {});

  void start();
  void wait_ready(std::chrono::milliseconds deadline = std::chrono::seconds(30));
  /// SIGKILL. Gone on return.
  void kill();
  /// SIGTERM; returns when it is gone (a server with open streams may take its time), or at once.
  void terminate(bool wait = true);
  /// SIGSTOP and SIGCONT. Stands still on return: the kernel still accepts connections for it.
  void pause();
  void resume();
  /// Kills it if it runs. Ready again on return.
  void restart();
  /// On empty data. Another token makes it another cluster (another cluster id).
  void restart_wiped(const std::string& token = {});
  /// A copy of the data as it is on disk; stops and starts the server for it. `restart_from()` brings that
  /// time back.
  std::string backup();
  void restart_from(const std::string& backup);
  bool running();
  bool paused() const;
  int pid() const;

  std::string endpoint() const;  // "127.0.0.1:port"
  std::string url() const;       // with its scheme
  std::string peer_url() const;
  std::string metrics_endpoint() const;
  const EtcdOptions& options() const;
  /// The last lines of the log; all of it in the file.
  std::string log_tail(std::size_t lines = 25) const;
  std::string log_file() const;

  // --- by etcdctl, an independent client: some 20 ms each ---

  /// As root when auth is on; the second takes "user:password", or "" for nobody. Never throws for a refused
  /// command.
  Output ctl(std::vector<std::string> args) const;
  Output ctl_as(const std::string& user, std::vector<std::string> args) const;
  /// The revision it got.
  std::int64_t put(const std::string& key, const std::string& value, std::int64_t lease = 0) const;
  std::optional<std::string> get(const std::string& key) const;
  std::optional<EtcdEntry> entry(const std::string& key) const;
  std::vector<EtcdEntry> get_prefix(const std::string& prefix) const;  // in the order of the keys
  std::int64_t del(const std::string& key) const;                      // how many: 0 or 1
  std::int64_t del_prefix(const std::string& prefix) const;
  void compact(std::int64_t revision) const;
  std::int64_t revision() const;
  std::int64_t grant(std::chrono::seconds ttl) const;
  void revoke(std::int64_t lease) const;
  std::vector<std::int64_t> leases() const;
  std::size_t lease_count() const { return leases().size(); }

  /// root, and a role for each user. From now on etcdctl speaks as root.
  void enable_auth(const std::string& root_password, const EtcdUser& user);
  void enable_auth(const std::string& root_password, const std::vector<EtcdUser>& users = {});
  void add_user(const EtcdUser& user) const;
  void disable_auth();
  /// For a member of a cluster in which auth was enabled through another one.
  void speak_as(const std::string& user_and_password);

  // --- by the metrics port: about 1 ms, no auth, no TLS, of this member only ---

  /// The sum over all label sets; over those that contain `label`, as in R"(grpc_method="Range")". 0 when
  /// there is none.
  double metric(const std::string& name, const std::string& label = {}) const;
  bool healthy() const;
  bool is_leader() const;
  /// As etcdctl wants it, in hex.
  std::string member_id() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// True, and a line on stderr, when there is no etcd to test with.
bool skip_without_etcd();

}  // namespace rig
