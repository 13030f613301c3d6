#!/usr/bin/env bash
# Builds and runs the benchmarks, and prints what they measured as one table: what, floor, library, ratio, budget, ok or over.
#   tools/bench.sh [--json FILE] [--strict]     everything that has a budget; --json writes the table, --strict fails, with 3, when
#                                               one is over
#   tools/bench.sh NAME [ARGUMENT...]           one program of benchmarks/; its first lines name its arguments
#   tools/bench.sh etcd --only watch --scale 10 --json watch.json
#   tools/bench.sh reads --benchmark_filter=robin
# REGISTRY_ETCD names another etcd server. Times mean something on a quiet machine only. It fails when what was measured is wrong.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset=bench
parts=(etcd reads propagation process)  # of the table, and the compile time
table_arguments=()
name=
if (($#)) && [[ "$1" != --* ]]; then
  name="$1"
  shift
  if [[ ! -f "$project_dir/benchmarks/$name.cpp" ]]; then
    echo "usage: $0 [--json FILE] [--strict], or $0 NAME [ARGUMENT...]; no benchmark is named \"$name\"" >&2
    exit 2
  fi
else
  while (($#)); do
    case "$1" in
      --json)
        table_arguments+=(--json "$(realpath -m "${2:?--json needs a file}")")
        shift 2
        ;;
      --strict)
        table_arguments+=(--strict)
        shift
        ;;
      *)
        echo "usage: $0 [--json FILE] [--strict], or $0 NAME [ARGUMENT...]; no argument is called \"$1\"" >&2
        exit 2
        ;;
    esac
  done
fi

build() {
  install_packages "${build_packages[@]}" "${test_packages[@]}" libbenchmark-dev
  say "preset $preset: build"
  (
    cd "$project_dir"
    cmake --preset "$preset" --log-level=WARNING >/dev/null
    cmake --build --preset "$preset" --parallel "${REGISTRY_JOBS:-$(nproc)}" --target "${@/#/registry_bench_}"
  )
}
programs="$project_dir/build/$preset/benchmarks"

if [[ -n "$name" ]]; then
  build "$name"
  exec "$programs/$name" "$@"
fi

# The figures of tools/compile_time.sh as a row: it prints a line of each source, and fails when the last one is over.
compile_time() {
  local output
  output="$("$project_dir/tools/compile_time.sh" --rounds 3)" || true
  printf '%s\n' "$output"
  awk '
    $1 == "grpcpp/grpcpp.h," { floor = $4 }
    $1 == "registry/registry.hpp" && NF >= 5 { seconds = $2; ratio = $3 + 0; budget = $4 + 0 }
    END {
      if (!budget) { print "compile_time.sh printed no figures" > "/dev/stderr"; exit 1 }
      printf "[{\"what\": \"compile time of a source that includes registry.hpp\", \"unit\": \"s\", \"floor\": %s, \"library\": %s, ", floor, seconds
      printf "\"ratio\": %s, \"budget\": %s, \"budget_of\": \"ratio\", \"note\": \"median of 3 rounds\"}]\n", ratio, budget
    }' <<<"$output" >"$1" || { rm -f "$1"; return 1; }
}

build "${parts[@]}" table
built=$SECONDS
rows="$(mktemp -d)"
trap 'rm -rf "$rows"' EXIT
failed=()
for part in "${parts[@]}"; do
  say "$part"
  "$programs/$part" --json "$rows/$part" || failed+=("$part")
done
say "peer go"
"$project_dir/benchmarks/peers/go/run.sh" --json "$rows/peer" || say "peer go: failed"
if [[ -f "$rows/peer" ]]; then table_arguments+=(--peer "$rows/peer"); fi
say "compile time"
compile_time "$rows/compile_time" || failed+=(compile_time)
files=()
for part in "${parts[@]}" compile_time; do
  if [[ -f "$rows/$part" ]]; then files+=("$rows/$part"); fi
done
say "the table; built in $built s, measured in $((SECONDS - built)) s, $(nproc) processors"
status=0
"$programs/table" ${table_arguments[@]+"${table_arguments[@]}"} ${files[@]+"${files[@]}"} || status=$?
if ((${#failed[@]})); then
  say "failed, their figures are wrong or missing: ${failed[*]}" >&2
  status=1
fi
exit "$status"
