#!/usr/bin/env bash
# Runs the fuzz targets of build/fuzz, all at once, for so many seconds (default 600), each on a copy
# of its committed corpus in build/fuzz/corpus. Prints what each did: inputs run, coverage ("cov":
# edges), inputs kept ("corp"). Exit status 1 on a finding, whose input lies in build/fuzz/findings.
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
    "$corpus" tests/fuzz/corpus/"$target" >"build/fuzz/$target.log" 2>&1 &
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
