#!/usr/bin/env bash
# The peer in Go: what clientv3 with encoding/json needs for the jobs of benchmarks/etcd.cpp.
#   benchmarks/peers/go/run.sh [--endpoint HOST:PORT --prefix PREFIX] [--json FILE]
# Without --endpoint it starts an etcd and fills it with 100,000 instances. Where Go (1.19, as in Debian 12, or newer) or its modules
# are missing it says so in one line and ends well, without a file.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../../tools/lib.sh"

folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
arguments=("$@")
build="$(mktemp -d)"
trap 'stop_etcd; rm -rf "$build"' EXIT

if ! command -v go >/dev/null; then
  say "peer go: skipped, there is no go (apt-get install golang-go)"
  exit 0
fi
if ! (cd "$folder" && GOTOOLCHAIN=local go build -mod=readonly -buildvcs=false -o "$build/peer" . 2>"$build/log"); then
  say "peer go: skipped, it cannot be built: $(tail -n 1 "$build/log")"
  exit 0
fi
if [[ " $* " != *" --endpoint"* ]]; then
  TMPDIR=/dev/shm start_etcd  # in memory: it does not wait for its disk, as that of the driver does not
  arguments+=(--endpoint "$etcd_endpoint" --fill 100000)
fi
"$build/peer" ${arguments[@]+"${arguments[@]}"}
