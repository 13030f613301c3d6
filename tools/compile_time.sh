#!/usr/bin/env bash
# Measures what including the library costs: tools/compile_time.sh [--rounds N] [compiler flag...], -O0 unless flags are named; CXX names
# another compiler. Compiles each source of benchmarks/compile_time N times (5), in turns, and prints the median of user and system CPU
# time. Fails when a file that includes registry.hpp takes more than 1.5x of one that includes gRPC, Asio and Boost.JSON.
#   tools/compile_time.sh --rounds 9 -O2
#   CXX=clang++-16 tools/compile_time.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

budget=1.5  # of design.md, for umbrella.cpp
rounds=5
if [[ "${1:-}" == --rounds ]]; then
  rounds="${2:?--rounds needs a number}"
  shift 2
fi
if ! [[ "$rounds" =~ ^[1-9][0-9]?$ ]]; then
  echo "usage: $0 [--rounds N] [compiler flag...]; --rounds \"$rounds\" is no number from 1 to 99" >&2
  exit 2
fi
(($#)) || set -- -O0

install_packages "${build_packages[@]}"
build_dir="$project_dir/build/compile-time"
rm -f "$build_dir/CMakeCache.txt"  # another compiler than last time
cmake -S "$project_dir/benchmarks/compile_time" -B "$build_dir" -G Ninja --log-level=WARNING -DCMAKE_CXX_FLAGS="$*" >/dev/null
cmake --build "$build_dir" --target registry_stub >/dev/null
cd "$build_dir"

sources=(floor umbrella facade program)
declare -A command samples
for name in "${sources[@]}"; do
  command[$name]="$(ninja -t commands "CMakeFiles/$name.dir/$name.cpp.o" | tail -1)"
  samples[$name]=""
done

# CPU seconds of one compilation; what the compiler says goes to stderr.
TIMEFORMAT='%U %S'
compile() {
  local times
  times="$( { time CCACHE_DISABLE=1 bash -c "${command[$1]}" 2>&3 >&3; } 3>&2 2>&1 )" || return 1
  awk '{ printf "%.2f", $1 + $2 }' <<<"$times"
}
median() { tr ' ' '\n' <<<"$1" | sort -n | awk '{ v[NR] = $1 } END { print (v[int((NR + 1) / 2)] + v[int(NR / 2) + 1]) / 2 }'; }

for ((round = 0; round < rounds; ++round)); do
  for name in "${sources[@]}"; do
    seconds="$(compile "$name")"
    samples[$name]+="${samples[$name]:+ }$seconds"
  done
done

say "${CXX:-c++} $*, median CPU time of $rounds rounds"
floor="$(median "${samples[floor]}")"
printf '%-44s %9s %7s %7s\n' what seconds ratio budget
show() {
  awk -v what="$2" -v seconds="$(median "${samples[$1]}")" -v floor="$floor" -v budget="${3:-}" 'BEGIN {
    ratio = seconds / floor
    printf "%-44s %9.2f %6.2fx %7s %s\n", what, seconds, ratio, budget == "" ? "" : budget "x",
      budget == "" ? "" : ratio <= budget ? "ok" : "over"
    exit budget != "" && ratio > budget
  }'
}
show floor "grpcpp/grpcpp.h, asio.hpp, boost/json.hpp"
show facade "registry/facade/registry.hpp"
show program "registry/registry.hpp, a small server of it"
show umbrella "registry/registry.hpp" "$budget"
