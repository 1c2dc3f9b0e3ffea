#!/bin/bash
# Tests the service where a GPU is, with what pack_service.sh packed: the parts named, default all but the
# experiments; a part that fails stops no other. A table at the end; in $OUT, after every part, few files,
# as few come back from some machines: results.txt (the table), results.json (figures), parity.json.gz,
# logs.tar.gz (every output, the servers' logs and metrics, each figure's file), experiments.tar.gz.
#   tests/cuda/service_on_device.sh [build conformance parity device python gradcheck maml bench
#     experiments]
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
OUT=$(realpath -m "${OUT:-build/service}")
export OUT
BUILD=${BUILD:-build/cuda}
parts=("$@")
[[ ${#parts[@]} -gt 0 ]] || parts=(build device parity gradcheck maml bench python conformance)
if [[ $(cat kernels/api/*.h kernels/cuda/backend.h | sha256sum) != $(cat .bundle/interface.sha256) ]]; then
  echo "the programs of .bundle/ were built from other headers than these: pack again" >&2
  exit 1
fi
work=$(mktemp -d)
logs=$work/logs
figures=$work/figures
mkdir -p "$OUT" "$logs" "$figures"
multiarch=x86_64-linux-gnu
# The CUDA backend first; CUDA's own libraries are where nvcc is.
export LD_LIBRARY_PATH=$PWD/$BUILD:$PWD/.bundle/usr/lib/$multiarch:/usr/local/cuda/lib64:${LD_LIBRARY_PATH:-}
export PYTHONPATH=$PWD/.bundle/python PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
export THERIA_SERVER=$PWD/.bundle/bin/theria-server THERIA_CLI=$PWD/.bundle/bin/theria
theria=$THERIA_CLI
results=()
started=$SECONDS

# part NAME SECONDS COMMAND...: runs it, its output in NAME.log, its last lines here.
part() {
  local name=$1 limit=$2 begun=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$logs/$name.log" 2>&1
  local rc=$?
  tail -n "${TAIL:-4}" "$logs/$name.log" | cut -c1-200
  results+=("$(printf '%-24s rc=%-4s %4d s' "$name" $rc $((SECONDS - begun)))")
}

pids=()
# start NAME FLAGS...: a server, its address in the variable of that name.
start() {
  local name=$1
  shift
  "$THERIA_SERVER" --listen 127.0.0.1:0 --port-file "$work/$name" --metrics-listen 127.0.0.1:0 \
    --metrics-port-file "$work/$name.metrics" "$@" >"$work/server_$name.log" 2>&1 &
  pids+=($!)
  for _ in $(seq 300); do
    [[ -s $work/$name ]] && break
    kill -0 $! 2>/dev/null || break
    sleep 0.1
  done
  if [[ ! -s $work/$name ]]; then
    echo "the $name server did not start:"
    cat "$work/server_$name.log"
  fi
  printf -v "$name" '%s' "$(head -1 "$work/$name" 2>/dev/null)"
}
gpu="" cpu=""
servers() {
  [[ -n $gpu ]] && return
  start gpu --backend cuda --cache-bytes 8GiB --spill-bytes 8GiB --max-queued-bytes 16GiB
  start cpu --backend cpu
}

pytests() {
  local name=$1 limit=$2
  shift 2
  THERIA_SERVER_FLAGS=--backend=cuda TAIL=${TAIL:-12} part "$name" "$limit" \
    python3 -m pytest -q --maxfail=40 -p no:cacheprovider -rfE --tb=short "$@"
}

conformance() {
  local count begun=$SECONDS
  count=$(nproc)
  for shard in $(seq 0 $((count - 1))); do
    GTEST_TOTAL_SHARDS=$count GTEST_SHARD_INDEX=$shard timeout 240 .bundle/bin/conformance_test \
      --gtest_filter='*cuda*' --gtest_brief=1 >"$work/conformance.$shard" 2>&1 &
    shards+=($!)
  done
  local failed=0
  for shard in "${shards[@]}"; do wait "$shard" || failed=$((failed + 1)); done
  cat "$work"/conformance.* >"$logs/conformance.log"
  grep -h "^\[  FAILED  \] .*GetParam" "$logs/conformance.log" | cut -c1-150 | sort -u | head -60
  echo "passed $(awk '/^\[  PASSED  \]/ {n += $4} END {print n + 0}' "$logs/conformance.log")," \
    "failed $(grep -c '^\[  FAILED  \] .*GetParam' "$logs/conformance.log")"
  results+=("$(printf '%-24s rc=%-4s %4d s' conformance $failed $((SECONDS - begun)))")
}
shards=()

# What there is so far, put into $OUT. Archives are written elsewhere first.
collect() {
  if kill -0 "${pids[0]:-}" 2>/dev/null; then
    python3 -c "import sys, urllib.request as u; print(u.urlopen(f'http://{sys.argv[1]}/metrics', timeout=5).read().decode())" \
      "$(head -1 "$work/gpu.metrics")" >"$work/metrics.txt" && mv "$work/metrics.txt" "$logs/"
  fi
  cp "$work"/server_*.log "$logs/" 2>/dev/null
  tar -C "$work" -czf "$work/logs.tar.gz" logs figures && mv "$work/logs.tar.gz" "$OUT/"
  if [[ -s $work/parity.json ]]; then
    gzip -9c "$work/parity.json" >"$work/parity.json.gz" && mv "$work/parity.json.gz" "$OUT/"
  fi
  python3 -c "import json, pathlib, sys
print(json.dumps({x.stem: json.loads(x.read_text()) for x in sorted(pathlib.Path(sys.argv[1]).glob('*.json'))}, indent=1))" \
    "$figures" >"$work/results.json" && mv "$work/results.json" "$OUT/"
  printf '%s\n' "${results[@]}" >"$OUT/results.txt"
}

for name in "${parts[@]}"; do
  echo "== $name ($((SECONDS - started)) s)"
  case $name in
    build)
      ABSL=.bundle/usr part build 580 sh tests/cuda/build_on_device.sh theria_kernels_cuda_shared
      ;;
    conformance) conformance ;;
    parity)
      servers
      TAIL=40 part info 30 "$theria" info "$gpu"
      TAIL=30 part parity 240 "$theria" parity "$gpu" --suite full \
        --json "$work/parity.json"
      ;;
    device)
      pytests device 150 tests/integration/cuda
      pytests fault 60 tests/integration/python/test_device_fault.py
      ;;
    python)
      pytests store 90 tests/integration/store tests/integration/python/test_store.py
      pytests values 60 tests/integration/python/test_values.py
      ;;
    gradcheck)
      pytests gradcheck 120 tests/integration/torch/test_sdpa_over_the_wire.py
      pytests maml_wire 60 tests/integration/torch/test_maml_over_the_wire.py
      ;;
    maml)
      servers
      TAIL=60 part maml 90 python3 tests/cuda/maml_table.py "$gpu" --reference "$cpu" \
        --command "$theria" --json "$figures/maml.json"
      ;;
    experiments)
      servers
      TAIL=40 part experiments 320 tests/cuda/experiments_on_device.sh "$gpu"
      ;;
    bench)
      servers
      for preset in small vit; do
        TAIL=12 part "bench_$preset" 60 "$theria" bench "$gpu" --preset "$preset" --dtype bfloat16 \
          --json "$figures/bench_$preset.json"
      done
      ;;
  esac
  collect
done

for pid in "${pids[@]}"; do kill -TERM "$pid"; done
for pid in "${pids[@]}"; do
  wait "$pid"
  results+=("server $pid ended with $?")
done
collect
grep -h '^theria_\(benchmark\|gpu\)_' "$logs/metrics.txt" 2>/dev/null | head -20
printf '\n== results after %d s\n' $((SECONDS - started))
cat "$OUT/results.txt"
