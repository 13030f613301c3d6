#!/usr/bin/env bash
# run.sh BINARY FOLDER GREETER_PROTO: installs the packages below FOLDER and runs the test with the client that uses them. Ends
# with 77, and says why, where node or npm is missing or npm's registry is out of reach.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
binary="$1" folder="$2" proto="$3"
source "$here/../lib.sh"

for program in node npm; do
  command -v "$program" >/dev/null || skip "$program is not installed"
done
mkdir -p "$folder"
cp "$here/package.json" "$here/package-lock.json" "$here/client.js" "$proto" "$folder/"
cd "$folder"
if ! cmp -s package-lock.json node_modules/.installed; then
  install=(npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier)
  # One short second try: ctest waits for this.
  install+=(--fetch-retries=1 --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=2000)
  code=0
  timeout -k 5 120 "${install[@]}" >npm.log 2>&1 || code=$?
  if ((code == 124 || code == 137)); then skip "npm ci took more than 120 s"; fi
  if ((code != 0)); then
    cat npm.log
    # Only what says that nobody answered: a lock file that does not fit must fail.
    reason="$(grep -oE -m1 "^npm (error|ERR!) code ($unreachable_by_npm)" npm.log)" || fail "npm ci ended with $code"
    skip "npm's registry is out of reach: ${reason##* }"
  fi
  cp package-lock.json node_modules/.installed
fi
run "$binary" "$folder/client.js"
