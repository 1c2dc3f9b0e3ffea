#!/usr/bin/env bash
# Every style check, on every file of ours. Needs a configured build/ and .venv (`make lint`).
#
#   scripts/lint.sh [--changed | --no-tidy]
#
# --changed: clang-tidy only what differs from the last commit; --no-tidy: everything but clang-tidy,
# which takes most of the time.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

failed=()
check() {
  local name=$1
  shift
  echo "== $name"
  "$@" || failed+=("$name")
}

mapfile -t cpp < <(git ls-files -co --exclude-standard '*.h' '*.cc' '*.cu' '*.cuh')
mapfile -t shell < <(git ls-files -co --exclude-standard '*.sh' .ci/run)
if [[ "${1:-}" == "--no-tidy" ]]; then
  tidy=()
elif [[ "${1:-}" == "--changed" ]]; then
  mapfile -t tidy < <({ git diff --name-only HEAD -- '*.cc'; git ls-files -o --exclude-standard '*.cc'; } | sort -u)
else
  mapfile -t tidy < <(git ls-files -co --exclude-standard '*.cc' | grep -vE '^(kernels/cuda|tests/bench|tests/integration/consumer|tests/cuda|tests/fuzz)/')
fi

check clang-format clang-format-14 --dry-run -Werror "${cpp[@]}"
if [[ ${#tidy[@]} -gt 0 ]]; then
  check clang-tidy scripts/clang_tidy.sh "${tidy[@]}"
fi
check "ruff check" .venv/bin/ruff check --quiet client/python deploy tests scripts
check "ruff format" .venv/bin/ruff format --quiet --check client/python deploy tests scripts
check "mypy" .venv/bin/mypy --config-file client/python/pyproject.toml client/python/src scripts
check shellcheck shellcheck "${shell[@]}"

if [[ ${#failed[@]} -gt 0 ]]; then
  echo "lint failed: ${failed[*]}"
  exit 1
fi
echo "lint passed"
