#!/usr/bin/env bash
# clang-tidy 16 with the checks of .clang-tidy over all headers of the library: tools/tidy.sh [clang-tidy argument...]. Tests and
# examples are left out: they would take ten times as long.
#   tools/tidy.sh --checks='-*,bugprone-use-after-move'
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_packages "${build_packages[@]}" "${component_packages[@]}" clang-16 clang-tidy-16
build_dir="$project_dir/build/tidy"
cmake -S "$project_dir" -B "$build_dir" -G Ninja --log-level=WARNING -DCMAKE_BUILD_TYPE=Debug -DREGISTRY_BUILD_TESTS=OFF \
  -DREGISTRY_BUILD_EXAMPLES=OFF >/dev/null
cmake --build "$build_dir" --target registry_stub >/dev/null

# One source of all headers: what takes the time is reading those of gRPC and Asio.
headers="$build_dir/headers.cpp"
(cd "$project_dir/include" && find registry -name '*.hpp' | sort | sed 's/.*/#include "&"/') >"$headers"
log="$build_dir/tidy.log"
flags=(-std=c++20 -DASIO_STANDALONE -DASIO_HAS_CO_AWAIT -DSPDLOG_COMPILED_LIB -DSPDLOG_FMT_EXTERNAL -I"$project_dir/include"
  -isystem "$build_dir/registry_stub")
code=0
clang-tidy-16 --quiet --config-file="$project_dir/.clang-tidy" "$@" "$headers" -- "${flags[@]}" >"$log" 2>"$log.err" || code=$?
if ((code)); then
  sed "s|$project_dir/||" "$log"
  if ! grep -qE ': (warning|error): ' "$log"; then tail -20 "$log.err" >&2; fi  # it crashed
  say "clang-tidy: $(grep -cE ': (warning|error): ' "$log" || true) findings in $log" >&2
  exit 1
fi
say "clang-tidy: nothing to say about $(wc -l <"$headers") headers"
