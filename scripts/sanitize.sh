#!/usr/bin/env bash
# The C++ tests under each sanitizer. Arguments: the presets; default asan (with ubsan) tsan.
set -euo pipefail
cd "$(dirname "$0")/.."

presets=("$@")
[[ ${#presets[@]} -gt 0 ]] || presets=(asan tsan)
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS="suppressions=$PWD/tests/tsan.supp second_deadlock_stack=1"
for preset in "${presets[@]}"; do
  echo "== $preset"
  cmake --preset "$preset" >/dev/null
  cmake --build --preset "$preset" --parallel "$(nproc)"
  ctest --test-dir "build/$preset" --output-on-failure --parallel "$(nproc)" --no-tests=error
done
