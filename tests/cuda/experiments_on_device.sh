#!/bin/bash
# Every experiment at its GPU size, the safety survey, and the tests of PyTorch's and JAX's tensors,
# against a server on a GPU: the parts named, default all; a part that fails stops no other. Data and
# plots in $OUT/experiments.tar.gz, a table at the end.
#   tests/cuda/experiments_on_device.sh ADDR [maml_backends ... safety tensors jax]
# `python3` must import theria, and THERIA_SERVER name a server to start for the tests: both are so in
# tests/cuda/service_on_device.sh, which runs this by its part `experiments`. DEVICE and SIZE (cuda,
# gpu) choose where PyTorch computes, and how much.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
target=${1:?the address of a server}
shift
OUT=$(realpath -m "${OUT:-build/cuda/out}")
DEVICE=${DEVICE:-cuda}
SIZE=${SIZE:-gpu}
parts=("$@")
# The longest first.
[[ ${#parts[@]} -gt 0 ]] || parts=(full_vs_first_order safety maml_backends maml_depth hessian_spectrum
  decoder_transformer tensors jax vit)
data=$(mktemp -d)/experiments
mkdir -p "$OUT" "$data/logs"
# Many processes share the cores, and each waits for the server and the GPU most of the time.
export OMP_NUM_THREADS=1 PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Of JAX the client is what is under test, on the CPU.
export JAX_PLATFORMS=cpu THERIA_SERVER_FLAGS=${THERIA_SERVER_FLAGS---backend=cuda}

command_of() {
  local more=()
  # Second-order steps of three problems, three modes and two seeds, one after another: the 100 outer
  # steps of size gpu take minutes.
  [[ $1 == full_vs_first_order && $SIZE == gpu ]] && more=(--outer-steps 40)
  case $1 in
    safety) echo python3 -m theria.safety --target "$target" --device "$DEVICE" --out "$data" ;;
    tensors) echo python3 -m pytest -q -p no:cacheprovider -rs tests/integration/torch/test_cuda_tensors.py ;;
    jax) echo python3 -m pytest -q -p no:cacheprovider -rs tests/integration/jax ;;
    *)
      echo python3 "client/python/examples/$1.py" --target "$target" --size "$SIZE" \
        --device "$DEVICE" --out "$data" "${more[@]}"
      ;;
  esac
}

# run NAME SECONDS: its output in logs/NAME.log, its line of the table in logs/NAME.result.
run() {
  local name=$1 limit=$2 begun=$SECONDS
  # shellcheck disable=SC2046
  timeout "$limit" $(command_of "$name") >"$data/logs/$name.log" 2>&1
  local rc=$?
  printf '%-24s rc=%-4s %4d s  %s\n' "$name" $rc $((SECONDS - begun)) \
    "$(tr '\r' '\n' <"$data/logs/$name.log" | grep -v '^ *$' | tail -1 | cut -c1-120)" \
    >"$data/logs/$name.result"
}

started=$SECONDS
running=()
for name in "${parts[@]}"; do
  if [[ $name != vit ]]; then
    run "$name" "${LIMIT:-240}" &
    running+=($!)
  fi
done
[[ ${#running[@]} -eq 0 ]] || wait "${running[@]}"
# Times are its result: alone.
if [[ " ${parts[*]} " == *" vit "* ]]; then run vit "${LIMIT:-50}"; fi

tar -C "$(dirname "$data")" -czf "$(dirname "$data")/experiments.tar.gz" experiments
mv "$(dirname "$data")/experiments.tar.gz" "$OUT/"
failed=0
for name in "${parts[@]}"; do
  cat "$data/logs/$name.result"
  grep -q ' rc=0 ' "$data/logs/$name.result" && continue
  failed=$((failed + 1))
  tr '\r' '\n' <"$data/logs/$name.log" | tail -12 | cut -c1-200
done
echo "$((${#parts[@]} - failed)) of ${#parts[@]} parts passed after $((SECONDS - started)) s: $OUT/experiments.tar.gz"
exit $((failed > 0))
