// `openssl ca` is the one subcommand of OpenSSL 3.0 that takes a start and an end date, which the expired
// certificate needs.
#include "certs.hpp"

#include <ctime>
#include <fstream>
#include <stdexcept>

#include "process.hpp"

namespace rig {
namespace {

void openssl(std::vector<std::string> args) {
  args.insert(args.begin(), "openssl");
  const auto done = run(args);
  if (!done.ok()) throw std::runtime_error("openssl " + args.at(1) + " failed: " + done.err);
}

std::string date(int days_from_now) {
  const std::time_t t = std::time(nullptr) + std::time_t{days_from_now} * 24 * 3600;
  std::tm utc{};
  ::gmtime_r(&t, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y%m%d%H%M%SZ", &utc);
  return text;
}

std::string join(const std::vector<std::string>& names) {
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "" : ",") + name;
  return all;
}

std::vector<std::string> usual_names(const std::vector<std::string>& dns_names) {
  std::vector<std::string> names{"IP:127.0.0.1", "DNS:localhost"};
  for (const auto& name : dns_names) names.push_back("DNS:" + name);
  return names;
}

}  // namespace

Certs::Certs(const std::vector<std::string>& dns_names)
    : ca(dir_ / "ca.pem"),
      server_cert(dir_ / "server.pem"),
      server_key(dir_ / "server.key"),
      client_cert(dir_ / "client.pem"),
      client_key(dir_ / "client.key"),
      expired_cert(dir_ / "expired.pem"),
      expired_key(dir_ / "expired.key") {
  std::ofstream(dir_ / "index.txt");
  std::ofstream(dir_ / "index.txt.attr") << "unique_subject = no\n";
  std::ofstream(dir_ / "ca.cnf") << "[ca]\ndefault_ca = rig\n[rig]\ndir = " << dir_.path()
                                 << "\ndatabase = $dir/index.txt\nnew_certs_dir = $dir\nrand_serial = yes\n"
                                    "certificate = $dir/ca.pem\nprivate_key = $dir/ca.key\n"
                                    "default_md = sha256\npolicy = any\n[any]\ncommonName = supplied\n";
  openssl({"req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
           dir_ / "ca.key", "-out", ca, "-subj", "/CN=rig CA", "-days", "30"});
  sign("server", join(usual_names(dns_names)), 30);
  sign("client", "DNS:client", 30);
  sign("expired", join(usual_names(dns_names)), -1);
}

void Certs::sign(const std::string& file_name, const std::string& names, int days) const {
  const auto base = dir_ / file_name;
  // Both usages, also for servers: etcd's own gateway shows the server's certificate as a client.
  std::ofstream(base + ".ext") << "basicConstraints = CA:FALSE\nextendedKeyUsage = serverAuth,clientAuth\n"
                               << (names.empty() ? "" : "subjectAltName = ") << names << "\n";
  openssl({"req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
           base + ".key", "-out", base + ".csr", "-subj", "/CN=" + file_name});
  openssl({"ca", "-batch", "-notext", "-config", dir_ / "ca.cnf", "-extfile", base + ".ext", "-in",
           base + ".csr", "-out", base + ".pem", "-startdate", date(days < 0 ? days - 2 : -1), "-enddate",
           date(days)});
}

ServerTls Certs::server() const { return {ca, server_cert, server_key, false, client_cert, client_key}; }

ServerTls Certs::mutual() const { return {ca, server_cert, server_key, true, client_cert, client_key}; }

ServerTls Certs::expired() const { return {ca, expired_cert, expired_key, false, client_cert, client_key}; }

ServerTls Certs::issue(const std::string& file_name, const std::vector<std::string>& names, int days) const {
  sign(file_name, join(names), days);
  const auto base = dir_ / file_name;
  return {ca, base + ".pem", base + ".key", false, client_cert, client_key};
}

}  // namespace rig
