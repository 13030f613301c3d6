#!/usr/bin/env bash
# What is too long for every change, or needs tools beyond the build: tools/check.sh [gate...], all of them unless some are named;
# --list tells which there are. A gate that fails does not keep the next ones from running; the last lines say how each ended.
# All together take more than an hour on two cores. What is missing of Debian's packages is installed first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# In this order: the quick ones first.
declare -A about=(
  [format]="every C++ file is formatted by clang-format 16"
  [snippets]="every piece of code and every measured figure in README.md and docs/ is what its source holds"
  [api]="the API reference can be made, and no public name lacks a description"
  [headers]="every header compiles alone, without a warning"
  [compile-time]="including registry.hpp costs no more than its budget"
  [tidy]="clang-tidy has nothing to say about the headers"
  [consumers]="a first program builds and runs in every way of consuming the library"
  [fuzz]="each fuzzer runs for 30 s from its corpus"
  [clang]="clang 16 builds everything without a warning, and passes the unit tests"
  [soak]="ten minutes of faults with a seed from the clock"
)
gates=(format snippets api headers compile-time tidy consumers fuzz clang soak)

gate_format() {
  install_packages clang-format-16
  find benchmarks cmake examples include src test_package tests \( -name '*.hpp' -o -name '*.cpp' \) -print0 |
    xargs -0 clang-format-16 --dry-run --Werror
}
gate_snippets() {
  install_packages python3
  tools/snippets.py --check
  tools/figures.py --check
}
gate_api() { tools/api_docs.sh; }
gate_headers() {
  install_packages "${build_packages[@]}" "${test_packages[@]}"
  cmake --preset debug >/dev/null
  cmake --build --preset debug --target registry_headers
}
gate_compile-time() { tools/compile_time.sh; }
gate_tidy() { tools/tidy.sh; }
gate_consumers() { tools/consumers.sh; }
gate_fuzz() { tools/fuzz.sh 30; }
gate_clang() {
  install_packages libbenchmark-dev
  tools/test.sh clang -L unit
}
gate_soak() { tools/soak.sh --minutes 10 --seed "$(date +%s)"; }

if [[ "${1:-}" == --list ]]; then
  for gate in "${gates[@]}"; do printf '%-13s %s\n' "$gate" "${about[$gate]}"; done
  exit 0
fi
for gate in "$@"; do
  if [[ -z "${about[$gate]:-}" ]]; then
    echo "usage: $0 [--list | gate...]; no gate is named \"$gate\", there are: ${gates[*]}" >&2
    exit 2
  fi
done
(($#)) && gates=("$@")

cd "$project_dir"
results=()
failed=0
for gate in "${gates[@]}"; do
  say "gate $gate: ${about[$gate]}"
  begin=$SECONDS
  # Not `if (...)`: that would switch errexit off inside.
  set +e
  (set -e; "gate_$gate")
  code=$?
  set -e
  outcome=passed
  if ((code)); then
    outcome=FAILED
    failed=1
  fi
  results+=("$(printf '%-13s %s in %s s' "$gate" "$outcome" $((SECONDS - begin)))")
done
say "gates"
printf '%s\n' "${results[@]}"
exit $failed
