#!/usr/bin/env bash
# Builds and runs the soak: tools/soak.sh --minutes N --seed S [--seconds N] [--members 1|3] [--preset NAME]. The preset is asan, or
# $REGISTRY_PRESET; see CMakePresets.json for others. REGISTRY_ETCD names another etcd server.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset="${REGISTRY_PRESET:-asan}"
arguments=()
while (($#)); do
  case "$1" in
    --preset) preset="${2:?--preset needs a name}"; shift 2 ;;
    *) arguments+=("$1"); shift ;;
  esac
done

install_packages "${build_packages[@]}" "${test_packages[@]}"
cd "$project_dir"
say "preset $preset: configure"
cmake --preset "$preset"
say "preset $preset: build"
cmake --build --preset "$preset" --parallel "${REGISTRY_JOBS:-$(nproc)}" --target registry_soak
say "preset $preset: soak"
export ASAN_OPTIONS="${ASAN_OPTIONS:-detect_stack_use_after_return=1}"
export LSAN_OPTIONS="${LSAN_OPTIONS:-suppressions=$project_dir/cmake/lsan.supp}"
export TSAN_OPTIONS="${TSAN_OPTIONS:-suppressions=$project_dir/cmake/tsan.supp}"
exec "build/$preset/tests/soak/registry_soak" "${arguments[@]}"
