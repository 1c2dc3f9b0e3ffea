#!/bin/bash
# Builds, checks and times the CUDA backend where a GPU is: the steps named, logs under $OUT.
#   THERIA_COMMIT=$(git rev-parse --short HEAD) tests/cuda/run_on_device.sh build registry check conformance \
#     large tune smoke sanitize bench
# THERIA_COMMIT is what the results say they are of; without it they say "unknown".
set -uo pipefail
OUT=${OUT:-build/cuda/out}
BUILD=${BUILD:-build/cuda}
mkdir -p "$OUT"
export BUILD PYTHONUNBUFFERED=1
if [ -n "${ABSL:-}" ]; then
  export LD_LIBRARY_PATH=$PWD/$ABSL/lib/x86_64-linux-gnu:${LD_LIBRARY_PATH:-}
fi
library=$BUILD/lib/libtheria_kernels.so
started=$(date +%s)
for step in "$@"; do
  case $step in
    build) sh tests/cuda/build_on_device.sh 2>&1 | grep -E "error|Error|FAILED|Linking|no work" | head -20 ;;
    check)
      # CHECK_ARGUMENTS is a list of words.
      # shellcheck disable=SC2086
      timeout 240 python3 -X faulthandler tests/cuda/device_check.py "$library" \
        --json "$OUT/check.json" ${CHECK_ARGUMENTS:-} >"$OUT/check.log" 2>&1
      # What failed first, the worst of it at the top; then the tables, or how it ended.
      grep '^FAILED' "$OUT/check.log" | head -20 | cut -c1-400
      grep -v '^FAILED' "$OUT/check.log" | tail -50 | cut -c1-240
      ;;
    conformance)
      # In as many processes as there are cores: each test is small. CONFORMANCE_FILTER is a
      # GoogleTest filter.
      shards=$(nproc)
      for shard in $(seq 0 $((shards - 1))); do
        GTEST_TOTAL_SHARDS=$shards GTEST_SHARD_INDEX=$shard timeout 280 "$BUILD/tests/conformance_test" \
          --gtest_brief=1 --gtest_filter="${CONFORMANCE_FILTER:-*}" >"$OUT/conformance.$shard.log" 2>&1 &
      done
      wait
      cat "$OUT"/conformance.*.log >"$OUT/conformance.log"
      rm "$OUT"/conformance.*.log
      grep -E '^\[  FAILED  \]' "$OUT/conformance.log" | head -20 | cut -c1-240
      awk '/^\[  PASSED  \]/ {passed += $4} /^\[  SKIPPED \]/ {skipped += $4} /^\[  FAILED  \] [0-9]+ test/ {failed += $4}
        /^\[==========\] .* ran\./ {ended++}
        END {print "conformance:", passed + 0, "passed,", failed + 0, "failed,", skipped + 0, "skipped;", ended + 0, "processes ended"}' \
        "$OUT/conformance.log"
      ;;
    tune)
      timeout 240 "$BUILD/bin/theria_cuda_tune" "$OUT/tuning.txt" "${TUNE_MATCH:-}" \
        >"$OUT/tune.log" 2>"$OUT/tune.err" || tail -3 "$OUT/tune.err"
      tail -1 "$OUT/tune.err" | tr '\r' '\n' | tail -1
      ;;
    large)
      timeout 120 python3 tests/cuda/device_large.py "$library" --json "$OUT/large.json" 2>&1 | tail -20
      ;;
    registry) "$BUILD/bin/theria_cuda_registry_test" | tail -20 ;;
    smoke) timeout 120 "$BUILD/bin/theria_cuda_smoke" 2>&1 | tail -20 ;;
    sanitize)
      # The results join those of other dtypes. SANITIZE_ARGUMENTS is a list of words.
      cp docs/benchmarks/cuda_sanitizer.json "$OUT/sanitizer.json"
      # shellcheck disable=SC2086
      python3 tests/cuda/sanitize.py "$BUILD/bin/theria_cuda_smoke" --json "$OUT/sanitizer.json" \
        ${SANITIZE_ARGUMENTS:-} 2>&1 | tee "$OUT/sanitize.log"
      ;;
    bench)
      # BENCH_ARGUMENTS is a list of words.
      # shellcheck disable=SC2086
      timeout 300 python3 tests/bench/cuda/bench.py "$library" --json "$OUT/bench.json" \
        ${BENCH_ARGUMENTS:-} 2>&1 | grep -v Warning | tee "$OUT/bench.log"
      ;;
  esac
  echo "== $step done at $(($(date +%s) - started)) s"
done
