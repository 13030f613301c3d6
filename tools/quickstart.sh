#!/usr/bin/env bash
# From a fresh clone to a running example: tools/quickstart.sh on the embedded store, tools/quickstart.sh --etcd on a private
# etcd server that is started for it and removed afterwards.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

with_etcd=false
case "${1:-}" in
  "") ;;
  --etcd) with_etcd=true ;;
  *) echo "usage: $0 [--etcd]" >&2; exit 2 ;;
esac

packages=("${build_packages[@]}")
if $with_etcd; then packages+=(etcd-server); fi
install_packages "${packages[@]}"

build_dir="$project_dir/build/quickstart"
say "building the quickstart example"
cmake -S "$project_dir" -B "$build_dir" -G Ninja --log-level=WARNING -DCMAKE_BUILD_TYPE=Release -DREGISTRY_BUILD_TESTS=OFF -DREGISTRY_COMPONENTS=
cmake --build "$build_dir" --target registry_example_quickstart
quickstart="$build_dir/examples/quickstart"

if ! $with_etcd; then
  say "running on the embedded store"
  "$quickstart"
  say "the same on a real etcd: ${BASH_SOURCE[0]} --etcd"
  exit 0
fi

etcd_pid=
data_dir="$(mktemp -d)"
cleanup() {
  if [[ -n "$etcd_pid" ]]; then
    kill "$etcd_pid" 2>/dev/null || true
    wait "$etcd_pid" 2>/dev/null || true
  fi
  rm -rf "$data_dir"
}
trap cleanup EXIT

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

# A port may be taken between the look and the start: etcd then ends at once, and other ports are tried.
start_etcd() {
  local client peer attempt
  for attempt in 1 2 3; do
    client="$(free_port)"
    peer="$(free_port)"
    etcd --name quickstart --data-dir "$data_dir/$attempt" --log-level error \
      --listen-client-urls "http://127.0.0.1:$client" --advertise-client-urls "http://127.0.0.1:$client" \
      --listen-peer-urls "http://127.0.0.1:$peer" --initial-advertise-peer-urls "http://127.0.0.1:$peer" \
      --initial-cluster "quickstart=http://127.0.0.1:$peer" >"$data_dir/log" 2>&1 &
    etcd_pid=$!
    for ((i = 0; i < 150; ++i)); do
      if is_healthy "$client"; then
        endpoint="127.0.0.1:$client"
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
  cat "$data_dir/log" >&2
  return 1
}

start_etcd
say "running on etcd at $endpoint"
"$quickstart" --etcd "$endpoint"
