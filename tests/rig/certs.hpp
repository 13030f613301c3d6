// A certificate authority for one test, made by the openssl command:
// `Certs certs; Etcd server({.tls = certs.server()});`
#pragma once

#include <string>
#include <vector>

#include "temp_dir.hpp"

namespace rig {

/// What a server needs, and what a client of it needs.
struct ServerTls {
  std::string ca, cert, key;
  bool mutual = false;  // demand a client certificate of this CA
  std::string client_cert, client_key;
};

/// Paths of PEM files, there while this lives. Server certificates hold for 127.0.0.1, localhost and
/// `dns_names`.
class Certs {
 public:
  explicit Certs(const std::vector<std::string>& dns_names = {});

  /// Only the server shows a certificate; or both sides do.
  ServerTls server() const;
  ServerTls mutual() const;
  /// A server whose certificate has run out.
  ServerTls expired() const;
  /// Makes another certificate and key, for these names ("DNS:a.example", "IP:127.0.0.2"); `days` from now,
  /// or ago.
  ServerTls issue(const std::string& file_name, const std::vector<std::string>& names, int days = 30) const;

 private:
  TempDir dir_;
  void sign(const std::string& file_name, const std::string& names, int days) const;

 public:
  const std::string ca, server_cert, server_key, client_cert, client_key, expired_cert, expired_key;
};

}  // namespace rig
