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

trap stop_etcd EXIT
start_etcd
say "running on etcd at $etcd_endpoint"
"$quickstart" --etcd "$etcd_endpoint"
