// Asking an etcd server, by etcdctl and by its metrics port.
#include <cstdint>
#include <sstream>
#include <string_view>

#include "etcd_state.hpp"

namespace rig {
namespace {

/// The text between quotes, or the number, after "name": in the JSON of etcdctl. Its strings are base64 or
/// hex: nothing is escaped.
std::optional<std::string> field(std::string_view json, const std::string& name) {
  const auto at = json.find('"' + name + "\":");
  if (at == std::string_view::npos) return std::nullopt;
  auto rest = json.substr(at + name.size() + 3);
  if (rest.starts_with('"')) return std::string(rest.substr(1, rest.find('"', 1) - 1));
  return std::string(rest.substr(0, rest.find_first_of(",}]")));
}

std::int64_t number(std::string_view json, const std::string& name) {
  const auto text = field(json, name);
  return text ? std::stoll(*text) : 0;
}

std::string from_base64(std::string_view text) {
  static constexpr std::string_view alphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  std::uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const auto digit = alphabet.find(c);
    if (digit == std::string_view::npos) break;
    bits = bits << 6 | static_cast<std::uint32_t>(digit);
    if ((count += 6) >= 8) out += static_cast<char>(bits >> (count -= 8) & 0xff);
  }
  return out;
}

std::vector<EtcdEntry> entries(std::string_view json) {
  std::vector<EtcdEntry> all;
  const auto kvs = json.find("\"kvs\":[");
  if (kvs == std::string_view::npos) return all;
  for (auto at = json.find('{', kvs); at != std::string_view::npos; at = json.find('{', at + 1)) {
    const auto one = json.substr(at, json.find('}', at) - at + 1);
    EtcdEntry e;
    e.key = from_base64(field(one, "key").value_or(""));
    e.value = from_base64(field(one, "value").value_or(""));
    e.create_revision = number(one, "create_revision");
    e.mod_revision = number(one, "mod_revision");
    e.version = number(one, "version");
    e.lease = number(one, "lease");
    all.push_back(std::move(e));
  }
  return all;
}

std::string hex(std::int64_t id) {
  std::ostringstream out;
  out << std::hex << static_cast<std::uint64_t>(id);
  return out.str();
}

std::string words(const std::vector<std::string>& args) {
  std::string all = "etcdctl";
  for (const auto& arg : args) all += " " + arg.substr(0, 100);
  return all;
}

}  // namespace

Output Etcd::ctl(std::vector<std::string> args) const {
  return ctl_as(state_->current_user(), std::move(args));
}

Output Etcd::ctl_as(const std::string& user, std::vector<std::string> args) const {
  const auto& s = *state_;
  std::vector<std::string> argv{s.etcdctl, "--endpoints=" + url(),
                                "--command-timeout=" + std::to_string(s.options.ctl_timeout.count()) + "ms",
                                "--dial-timeout=" + std::to_string(s.options.ctl_timeout.count()) + "ms"};
  if (!user.empty()) argv.push_back("--user=" + user);
  if (const auto& tls = s.options.tls) {
    argv.push_back("--cacert=" + tls->ca);
    if (tls->mutual) argv.insert(argv.end(), {"--cert=" + tls->client_cert, "--key=" + tls->client_key});
  }
  argv.insert(argv.end(), args.begin(), args.end());
  RunOptions options;
  options.env = {"ETCDCTL_API=3"};
  options.deadline = 2 * s.options.ctl_timeout + std::chrono::seconds(10);
  return run(std::move(argv), std::move(options));
}

namespace {

/// The answer of a command that must succeed.
std::string must(const Etcd& etcd, const EtcdState& state, std::vector<std::string> args) {
  const auto done = etcd.ctl(args);
  const auto said = (done.err + done.out).substr(0, 500);
  if (!done.ok()) state.fail(words(args) + " ended with " + std::to_string(done.code) + ": " + said);
  return done.out;
}

}  // namespace

std::int64_t Etcd::put(const std::string& key, const std::string& value, std::int64_t lease) const {
  std::vector<std::string> args{"put", "-w=json"};
  if (lease != 0) args.push_back("--lease=" + hex(lease));
  args.insert(args.end(), {"--", key, value});
  return number(must(*this, *state_, std::move(args)), "revision");
}

std::optional<EtcdEntry> Etcd::entry(const std::string& key) const {
  auto found = entries(must(*this, *state_, {"get", "-w=json", "--", key}));
  if (found.empty()) return std::nullopt;
  return std::move(found.front());
}

std::optional<std::string> Etcd::get(const std::string& key) const {
  auto found = entry(key);
  if (!found) return std::nullopt;
  return std::move(found->value);
}

std::vector<EtcdEntry> Etcd::get_prefix(const std::string& prefix) const {
  return entries(must(*this, *state_, {"get", "-w=json", "--prefix", "--", prefix}));
}

std::int64_t Etcd::del(const std::string& key) const {
  return number(must(*this, *state_, {"del", "-w=json", "--", key}), "deleted");
}

std::int64_t Etcd::del_prefix(const std::string& prefix) const {
  return number(must(*this, *state_, {"del", "-w=json", "--prefix", "--", prefix}), "deleted");
}

void Etcd::compact(std::int64_t at) const { must(*this, *state_, {"compact", std::to_string(at)}); }

std::int64_t Etcd::revision() const {
  return number(must(*this, *state_, {"get", "-w=json", "--keys-only", "--", "any"}), "revision");
}

std::int64_t Etcd::grant(std::chrono::seconds ttl) const {
  const auto out = must(*this, *state_, {"lease", "grant", "-w=json", std::to_string(ttl.count())});
  return number(out, field(out, "ID") ? "ID" : "id");
}

void Etcd::revoke(std::int64_t lease) const { must(*this, *state_, {"lease", "revoke", hex(lease)}); }

std::vector<std::int64_t> Etcd::leases() const {
  // "found 2 leases" and then one hex id a line.
  std::istringstream out(must(*this, *state_, {"lease", "list"}));
  std::vector<std::int64_t> all;
  std::string line;
  std::getline(out, line);
  while (std::getline(out, line))
    if (!line.empty()) all.push_back(static_cast<std::int64_t>(std::stoull(line, nullptr, 16)));
  return all;
}

void Etcd::enable_auth(const std::string& root_password, const EtcdUser& user) {
  enable_auth(root_password, std::vector<EtcdUser>{user});
}

void Etcd::enable_auth(const std::string& root_password, const std::vector<EtcdUser>& users) {
  must(*this, *state_, {"user", "add", "root:" + root_password});
  must(*this, *state_, {"role", "add", "root"});
  must(*this, *state_, {"user", "grant-role", "root", "root"});
  for (const auto& user : users) add_user(user);
  must(*this, *state_, {"auth", "enable"});
  speak_as("root:" + root_password);
}

void Etcd::add_user(const EtcdUser& user) const {
  must(*this, *state_, {"role", "add", user.name});
  must(*this, *state_, {"role", "grant-permission", user.name, "readwrite", user.prefix, "--prefix=true"});
  must(*this, *state_, {"user", "add", user.name + ":" + user.password});
  must(*this, *state_, {"user", "grant-role", user.name, user.name});
}

void Etcd::disable_auth() {
  must(*this, *state_, {"auth", "disable"});
  speak_as({});
}

void Etcd::speak_as(const std::string& user_and_password) { state_->set_user(user_and_password); }

double Etcd::metric(const std::string& name, const std::string& label) const {
  std::istringstream text(http_get(metrics_endpoint(), "/metrics"));
  double sum = 0;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with(name) || line.size() == name.size()) continue;
    const char next = line[name.size()];
    if ((next != ' ' && next != '{') || line.find(label) == std::string::npos) continue;
    sum += std::stod(line.substr(line.rfind(' ') + 1));
  }
  return sum;
}

bool Etcd::healthy() const {
  try {
    return http_get(metrics_endpoint(), "/health", std::chrono::seconds(2)).find("true") != std::string::npos;
  } catch (const std::exception&) {
    return false;
  }
}

bool Etcd::is_leader() const { return metric("etcd_server_is_leader") == 1; }

std::string Etcd::member_id() const {
  const auto text = http_get(metrics_endpoint(), "/metrics");
  static constexpr std::string_view label = "etcd_server_id{server_id=\"";
  const auto at = text.find(label);
  if (at == std::string::npos) state_->fail("no etcd_server_id among its metrics");
  return text.substr(at + label.size(), text.find('"', at + label.size()) - at - label.size());
}

}  // namespace rig
