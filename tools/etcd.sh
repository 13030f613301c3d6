#!/usr/bin/env bash
# Prints the path of an etcd server of a newer Debian release, unpacked beside the project's build (nothing is
# installed): tools/etcd.sh [suite], trixie (3.5.16) unless named. Its etcdctl lies beside it. Fails, with a line
# on stderr that says why, where it cannot be had.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

suite="${1:-trixie}"
target="$project_dir/build/etcd-$suite"

fetch() {
  local work="$1" keys=/usr/share/keyrings/debian-archive-keyring.gpg
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/unpacked"
  echo "deb [signed-by=$keys] http://deb.debian.org/debian $suite main" >"$work/sources.list"
  # apt's own download, so that what comes is what the archive has signed; with lists of its own.
  local apt=(apt-get -q -o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
  "${apt[@]}" update && (cd "$work" && "${apt[@]}" download etcd-server etcd-client) || return 1
  local package
  for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/unpacked" || return 1; done
  "$work/unpacked/usr/bin/etcd" --version
}

if [[ ! -x "$target/usr/bin/etcd" ]]; then
  work="$(mktemp -d)"
  trap 'rm -rf "$work"' EXIT
  if ! fetch "$work" >"$work/log" 2>&1; then
    echo "etcd of Debian $suite cannot be had: $(tail -1 "$work/log")" >&2
    exit 1
  fi
  mkdir -p "$(dirname "$target")"
  rm -rf "$target"
  mv "$work/unpacked" "$target"
fi
echo "$target/usr/bin/etcd"
