# Sourced by the scripts beside it: where the project is, how Debian packages get installed, and an etcd server of one's own.

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

# start_etcd: a private etcd server on free ports, with its data in a folder of its own; sets etcd_endpoint. Who starts it has
# `trap stop_etcd EXIT`. A port may be taken between the look and the start: etcd then ends at once, and other ports are tried.
etcd_endpoint=
etcd_pid=
etcd_folder=
start_etcd() {
  local client peer attempt i
  etcd_folder="$(mktemp -d)"
  for attempt in 1 2 3; do
    client="$(free_port)"
    peer="$(free_port)"
    etcd --name private --data-dir "$etcd_folder/$attempt" --log-level error \
      --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
      --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
      --initial-cluster "private=http://127.0.0.1:$peer" >"$etcd_folder/log" 2>&1 &
    etcd_pid=$!
    for ((i = 0; i < 150; ++i)); do
      if is_healthy "$client"; then
        etcd_endpoint="127.0.0.1:$client"
        return 0
      fi
      kill -0 "$etcd_pid" 2>/dev/null || break
      sleep 0.1
    done
    kill "$etcd_pid" 2>/dev/null || true
    wait "$etcd_pid" 2>/dev/null || true
    etcd_pid=
  done
  say "etcd does not start:" >&2
  cat "$etcd_folder/log" >&2
  return 1
}

stop_etcd() {
  if [[ -n "$etcd_pid" ]]; then
    kill "$etcd_pid" 2>/dev/null || true
    wait "$etcd_pid" 2>/dev/null || true
    etcd_pid=
  fi
  if [[ -n "$etcd_folder" ]]; then rm -rf "$etcd_folder"; fi
}

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); is_open "$port"; do :; done
  echo "$port"
}

is_healthy() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET /health HTTP/1.0\r\n\r\n' >&3
    timeout 2 grep -q '"health":"true"' <&3
  ) 2>/dev/null
}
