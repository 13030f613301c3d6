# Sourced by the scripts beside it: where the project is, and how Debian packages get installed.

project_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# What a program that uses the library needs, what its components need, and what its tests need on top.
build_packages=(g++ cmake ninja-build pkg-config libasio-dev libgrpc++-dev libprotobuf-dev protobuf-compiler
  protobuf-compiler-grpc libboost-json1.81-dev)
component_packages=(libspdlog-dev prometheus-cpp-dev libyaml-cpp-dev)
test_packages=("${component_packages[@]}" doctest-dev etcd-server etcd-client openssl)

say() { printf '== %s\n' "$*"; }

is_installed() { [[ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$1" 2>/dev/null)" == ii* ]]; }

# install_packages name...: installs those that are missing; does nothing, and asks for no rights, when none is.
install_packages() {
  local package missing=()
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    say "no apt-get here; on Debian 12 the needed packages are: $*"
    return 0
  fi
  for package in "$@"; do
    is_installed "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  local as_root=()
  if ((EUID != 0)); then
    command -v sudo >/dev/null || { say "not root and no sudo; please install: ${missing[*]}" >&2; return 1; }
    as_root=(sudo)
  fi
  as_root+=(env DEBIAN_FRONTEND=noninteractive)
  say "installing ${missing[*]}"
  # The package lists may be absent or too old to fetch from: refresh them only then.
  "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" && return 0
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}"
}
