#!/usr/bin/env bash
# Fuzzes what reads from outside: tools/fuzz.sh [seconds] [target...] builds the targets of tests/fuzz (clang 16, libFuzzer, address
# and undefined behaviour sanitizers) and runs each for so long (30) on a copy of its corpus, as many at a time as there are cores. A
# finding is printed as base64 with the command that repeats it, stays in build/fuzz/findings, and fails the script.
# tools/fuzz.sh --merge [seconds] [target...] also puts the short inputs that cover most into tests/fuzz/corpus, at most 60 each;
# files with other names than libFuzzer's were written by hand and stay.
# REGISTRY_TEST_SEED repeats a run as far as its time allows. REGISTRY_FUZZ_SOURCE tests the library of another tree,
# REGISTRY_FUZZ_FOLDER is used in place of build/fuzz.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

merge=
if [[ "${1:-}" == --merge ]]; then
  merge=yes
  shift
fi
seconds=30
if (($#)) && [[ "$1" =~ ^[0-9]+$ ]]; then
  seconds="$1"
  shift
fi

source_dir="$project_dir/tests/fuzz"
known=("$source_dir"/*.cpp)
known=("${known[@]##*/}")
known=("${known[@]%.cpp}")
targets=("$@")
(($#)) || targets=("${known[@]}")
for target in "${targets[@]}"; do
  [[ " ${known[*]} " == *" $target "* ]] && continue
  say "no fuzz target $target: there are ${known[*]}" >&2
  exit 2
done

install_packages "${build_packages[@]}" libyaml-cpp-dev clang-16 libclang-rt-16-dev llvm-16  # llvm-16: names in stack traces

folder="${REGISTRY_FUZZ_FOLDER:-$project_dir/build/fuzz}"
jobs="${REGISTRY_JOBS:-$(nproc)}"
say "fuzz: build ${targets[*]}"
cmake -S "$source_dir" -B "$folder" -G Ninja -DCMAKE_CXX_COMPILER=clang++-16 \
  -DREGISTRY_FUZZ_SOURCE="${REGISTRY_FUZZ_SOURCE:-$project_dir}" >"$folder.configure.log" 2>&1 ||
  { cat "$folder.configure.log"; exit 1; }
cmake --build "$folder" --parallel "$jobs" --target "${targets[@]}"

seed="${REGISTRY_TEST_SEED:-$((RANDOM * 32768 + RANDOM + 1))}"
export ASAN_OPTIONS="detect_stack_use_after_return=1:quarantine_size_mb=64"
export ASAN_SYMBOLIZER_PATH=/usr/lib/llvm-16/bin/llvm-symbolizer
export UBSAN_OPTIONS="print_stacktrace=1"
mkdir -p "$folder/findings" "$folder/work"

# flags target: what each run of it has in common.
flags() {
  printf '%s\n' -max_len=4096 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512
  if [[ -f "$source_dir/$1.dict" ]]; then printf '%s\n' "-dict=$source_dir/$1.dict"; fi
}

run() {
  local target="$1" work="$folder/work/$1" common
  rm -rf "$work" "$work".{log,code}
  mkdir -p "$work"
  if [[ -d "$source_dir/corpus/$target" ]]; then cp -r "$source_dir/corpus/$target/." "$work"; fi
  mapfile -t common < <(flags "$target")
  local code=0
  "$folder/$target" "${common[@]}" -max_total_time="$seconds" -seed="$seed" -print_final_stats=1 \
    -artifact_prefix="$folder/findings/$target-" "$work" >"$work.log" 2>&1 || code=$?
  echo "$code" >"$work.code"
}

say "fuzz: $seconds s each, REGISTRY_TEST_SEED=$seed"
for target in "${targets[@]}"; do
  while (($(jobs -rp | wc -l) >= jobs)); do wait -n || true; done
  run "$target" &
done
wait

failed=0
for target in "${targets[@]}"; do
  log="$folder/work/$target.log"
  if (($(<"$folder/work/$target.code") == 0)); then
    say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs, nothing found"
    continue
  fi
  failed=1
  say "$target: FOUND"
  grep -a -v -E '^#|^INFO|^stat::' "$log" | tail -n 60 || true
  input="$(sed -n 's/^artifact_prefix=.*Test unit written to //p' "$log" | tail -n 1)"
  if [[ -f "$input" ]]; then
    mapfile -t common < <(flags "$target")
    printf 'The input, as base64:\n%s\nAgain:\n  echo BASE64 | base64 -d >input; ASAN_OPTIONS=%s %s\n' \
      "$(base64 -w 0 "$input")" "$ASAN_OPTIONS" "$folder/$target ${common[*]} input"
    printf 'It is also in %s\n' "$input"
  fi
done
((failed == 0)) || exit 1
[[ "$merge" ]] || exit 0

for target in "${targets[@]}"; do
  corpus="$source_dir/corpus/$target" kept="$folder/work/$target.kept"
  short="$folder/work/$target.short"
  rm -rf "$kept" "$short"
  mkdir -p "$kept" "$short" "$corpus"
  find "$folder/work/$target" -type f -size -513c -exec cp -t "$short" {} +
  find "$corpus" -type f -regextype posix-extended ! -regex '.*/[0-9a-f]{40}' -exec cp -t "$kept" {} +
  mapfile -t common < <(flags "$target")
  "$folder/$target" "${common[@]}" -set_cover_merge=1 -use_counters=0 "$kept" "$short" \
    >"$folder/work/$target.merge.log" 2>&1
  # It writes what covers most first.
  (cd "$kept" && ls -tr | tail -n +61 | xargs -r rm --)
  find "$corpus" -type f -regextype posix-extended -regex '.*/[0-9a-f]{40}' -delete
  cp "$kept"/* "$corpus"
  say "$target: $(find "$corpus" -type f | wc -l) files, $(cat "$corpus"/* | wc -c) bytes in its corpus"
done
