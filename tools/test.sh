#!/usr/bin/env bash
# Builds and runs all tests: tools/test.sh [preset] [ctest argument...]. The preset is asan, or $REGISTRY_PRESET; see
# CMakePresets.json for others. What is missing of Debian's packages is installed first.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

preset="${REGISTRY_PRESET:-asan}"
if (($#)) && [[ "$1" != -* ]]; then
  preset="$1"
  shift
fi

packages=("${build_packages[@]}" "${test_packages[@]}")
if [[ "$preset" == clang ]]; then packages+=(clang-16 libbenchmark-dev); fi
install_packages "${packages[@]}"

cd "$project_dir"
say "preset $preset: configure"
cmake --preset "$preset"
say "preset $preset: build"
cmake --build --preset "$preset" --parallel "${REGISTRY_JOBS:-$(nproc)}"
say "preset $preset: test"
ctest --preset "$preset" "$@"
