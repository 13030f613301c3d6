#!/usr/bin/env bash
# Builds and runs benchmarks: tools/bench.sh [name [argument...]], all of benchmarks/ unless one is named. Each prints a table; `--json FILE`
# writes it to a file too. REGISTRY_ETCD names another etcd server. Times mean something on a quiet machine only.
#   tools/bench.sh propagation --rounds 500 --json propagation.json
#   tools/bench.sh reads --benchmark_filter=robin
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset=bench
names=()
if (($#)); then
  if [[ ! -f "$project_dir/benchmarks/$1.cpp" ]]; then
    echo "usage: $0 [name [argument...]]; no benchmark is named \"$1\"" >&2
    exit 2
  fi
  names=("$1")
  shift
else
  for source in "$project_dir"/benchmarks/*.cpp; do names+=("$(basename "$source" .cpp)"); done
fi

install_packages "${build_packages[@]}" "${test_packages[@]}" libbenchmark-dev
cd "$project_dir"
say "preset $preset: configure"
cmake --preset "$preset"
say "preset $preset: build"
cmake --build --preset "$preset" --parallel "${REGISTRY_JOBS:-$(nproc)}" --target "${names[@]/#/registry_bench_}"
for name in "${names[@]}"; do
  say "$name"
  "build/$preset/benchmarks/$name" "$@"
done
