#!/usr/bin/env bash
# run.sh BINARY FOLDER: builds the client in FOLDER and runs the test with it. Ends with 77, and says why, where Go is missing or
# too old, or its modules are out of reach.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
binary="$1" folder="$2"
source "$here/../lib.sh"

PATH="$PATH:/usr/local/go/bin"  # where Go's own archive is unpacked to
command -v go >/dev/null || skip "go is not installed"
export GOTOOLCHAIN=local GOFLAGS="-mod=readonly -buildvcs=false"
version="$(go version)"
[[ "$version" =~ go1\.([0-9]+) ]] || fail "unknown version: $version"
((BASH_REMATCH[1] >= 25)) || skip "go 1.25 or newer is needed, this is $version"
mkdir -p "$folder"
cp "$here/go.mod" "$here/go.sum" "$here/main.go" "$folder/"
cd "$folder"
code=0
timeout -k 5 300 go build -o client . >go.log 2>&1 || code=$?
if ((code == 124 || code == 137)); then skip "go build took more than 300 s"; fi
if ((code != 0)); then
  cat go.log
  # Only what says that nobody answered: modules that do not fit must fail.
  reason="$(grep -oE -m1 "$unreachable_by_go" go.log)" || fail "go build ended with $code"
  skip "Go's modules are out of reach: $reason"
fi
run "$binary" "$folder/client"
