#!/bin/sh
# Builds the shim, or the targets named, where CUDA is. ABSL: a prefix with Abseil's headers,
# libraries and CMake files.
set -eu
# CMAKE_ARGUMENTS is a list of words.
# shellcheck disable=SC2086
cmake -S tests/cuda -B "${BUILD:-build/cuda}" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CUDA_ARCHITECTURES="${ARCHITECTURES:-90}" \
  -DCMAKE_SHARED_LINKER_FLAGS="-Wl,--no-as-needed -l:libstdc++.so.6" \
  -DCMAKE_EXE_LINKER_FLAGS="-Wl,--no-as-needed -l:libstdc++.so.6" \
  ${ABSL:+-Dabsl_DIR="$PWD/$ABSL/lib/x86_64-linux-gnu/cmake/absl"} ${CMAKE_ARGUMENTS:-} >/dev/null
ninja -C "${BUILD:-build/cuda}" "$@" | tail -1
