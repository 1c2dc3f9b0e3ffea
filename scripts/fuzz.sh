#!/usr/bin/env bash
# Runs the fuzz targets of build/fuzz concurrently for SECONDS each (default 600). Each starts from
# its committed corpus, which CMake unpacks into build/fuzz/tests/fuzz/corpus, and writes new inputs to
# build/fuzz/corpus. Prints for each target the inputs run, the coverage ("cov": edges) and the
# inputs kept ("corp"). On a finding the exit status is 1 and the input is in build/fuzz/findings.
#
#     scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
targets=(tensor attention upload download socket)
mkdir -p build/fuzz/findings
echo "== ${targets[*]}: $seconds s"
runs=()
for target in "${targets[@]}"; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  build/fuzz/tests/theria_fuzz_"$target" -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$target-" \
    "$corpus" build/fuzz/tests/fuzz/corpus/"$target" >"build/fuzz/$target.log" 2>&1 &
  runs+=($!)
done
status=0
for run in "${runs[@]}"; do
  wait "$run" || status=1
done
for target in "${targets[@]}"; do
  echo "== $target"
  grep -aE 'DONE|^stat::(number_of_executed_units|new_units_added|peak_rss)|ERROR|does not hold' \
    "build/fuzz/$target.log" || true
done
exit "$status"
