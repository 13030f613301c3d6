// How gRPC finds our control plane: a socket in a folder of ours, and the xDS bootstrap that names it. No
// environment variable is ever set: an application's own bootstrap keeps its place, and ours is then given to
// each channel.
#pragma once

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <string>
#include <string_view>
#include <system_error>

#include "registry/async/clock.hpp"
#include "registry/model/errors.hpp"
#include "registry/model/immortal.hpp"
#include "registry/model/text.hpp"
#include "registry/rpc/xds_names.hpp"

// gRPC's own entry for a bootstrap that ranks below both environment variables. Exported, but in no public
// header; weak, so that a gRPC without it still links.
namespace grpc_core::internal {
void SetXdsFallbackBootstrapConfig(const char* config) __attribute__((weak));
}

namespace registry::detail {

/// gRPC's public channel argument with a bootstrap for one channel.
inline constexpr const char* bootstrap_argument = "grpc.TEST_ONLY_DO_NOT_USE_IN_PROD.xds_bootstrap_config";

/// A bootstrap with one control plane, "unix:/path" or "host:port". The URI holds nothing that JSON escapes.
inline std::string bootstrap_of(const std::string& server_uri) {
  return R"({"xds_servers":[{"server_uri":")" + server_uri +
         R"(","channel_creds":[{"type":"insecure"}]}],"node":{"id":"registry-)" + std::to_string(::getpid()) +
         R"("}})";
}

/// Whether the application, or its operator, has an xDS bootstrap: it ranks above ours.
inline bool has_foreign_bootstrap() {
  return std::getenv("GRPC_XDS_BOOTSTRAP") != nullptr || std::getenv("GRPC_XDS_BOOTSTRAP_CONFIG") != nullptr;
}

/// Makes our bootstrap the one that all channels of the process use. False when they need it one by one.
inline bool install_bootstrap(const std::string& bootstrap) {
  if (has_foreign_bootstrap() || grpc_core::internal::SetXdsFallbackBootstrapConfig == nullptr) return false;
  grpc_core::internal::SetXdsFallbackBootstrapConfig(bootstrap.c_str());
  return true;
}

/// Where the sockets of this process lie: the same path for its whole life, because gRPC remembers it. A name
/// that nobody can foresee, in the user's own runtime folder if there is one.
inline const std::string& socket_folder() {
  static const Immortal<std::string> path([] {
    const char* base = std::getenv("XDG_RUNTIME_DIR");
    if (base == nullptr || ::access(base, W_OK) != 0) base = std::getenv("TMPDIR");
    if (base == nullptr || ::access(base, W_OK) != 0) base = "/tmp";
    const std::string name = "/registry-" + std::to_string(::getpid()) + "-" + std::to_string(Random().id());
    // The path of a socket has at most 107 bytes.
    return (std::string_view(base).size() > 50 ? "/tmp" : std::string(base)) + name;
  }());
  return *path;
}

/// The folder while this lives: ours alone. Removed by the process that made it, not by its forks.
class SocketFolder {
 public:
  SocketFolder() : path_(socket_folder()), maker_(::getpid()) {
    if (::mkdir(path_.c_str(), 0700) == 0) return;
    const std::error_code why(errno, std::system_category());
    struct stat found {};
    const bool ours = ::lstat(path_.c_str(), &found) == 0 && S_ISDIR(found.st_mode) &&
                      found.st_uid == ::geteuid() && (found.st_mode & 0777) == 0700;
    if (!ours) throw std::system_error(why, "the folder of the control plane's socket, " + quote(path_));
  }
  SocketFolder(const SocketFolder&) = delete;
  SocketFolder& operator=(const SocketFolder&) = delete;
  ~SocketFolder() {
    if (::getpid() != maker_) return;
    ::unlink(socket().c_str());
    ::rmdir(path_.c_str());
  }

  std::string socket() const { return path_ + "/ads.sock"; }
  /// For gRPC, as a server's address and as a client's target.
  std::string uri() const { return "unix:" + percent_encoded(socket(), "/"); }

 private:
  const std::string path_;
  const pid_t maker_;
};

}  // namespace registry::detail
