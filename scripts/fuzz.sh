#!/usr/bin/env bash
# Runs each fuzz target of build/fuzz for so many seconds (default 600), on a copy of its committed
# corpus in build/fuzz/corpus. Exit status 1 on a finding, whose input lies in build/fuzz/findings.
#
#     scripts/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-600}
mkdir -p build/fuzz/findings
status=0
for target in tensor attention upload; do
  corpus=build/fuzz/corpus/$target
  mkdir -p "$corpus"
  echo "== $target: $seconds s"
  build/fuzz/tests/theria_fuzz_"$target" -max_total_time="$seconds" -timeout=20 \
    -rss_limit_mb=4096 -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$target-" \
    "$corpus" tests/fuzz/corpus/"$target" 2>"build/fuzz/$target.log" || status=1
  grep -E '^stat::(number_of_executed_units|new_units_added|peak_rss)|ERROR|does not hold' \
    "build/fuzz/$target.log" || true
done
exit "$status"
