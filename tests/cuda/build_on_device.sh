#!/bin/sh
# Builds the library, or the targets named, where CUDA is. ABSL: a prefix with the headers, libraries
# and CMake files of Abseil and Highway, and of GoogleTest for the conformance suite.
set -eu
# CMAKE_ARGUMENTS is a list of words.
# shellcheck disable=SC2086
cmake -S tests/cuda -B "${BUILD:-build/cuda}" -G Ninja -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_CUDA_ARCHITECTURES="${ARCHITECTURES:-90}" \
  -DCMAKE_SHARED_LINKER_FLAGS="-Wl,--no-as-needed -l:libstdc++.so.6" \
  -DCMAKE_EXE_LINKER_FLAGS="-Wl,--no-as-needed -l:libstdc++.so.6" \
  ${ABSL:+-Dabsl_DIR="$PWD/$ABSL/lib/x86_64-linux-gnu/cmake/absl"} \
  ${ABSL:+-Dhwy_DIR="$PWD/$ABSL/lib/x86_64-linux-gnu/cmake/hwy"} \
  ${ABSL:+-DGTest_DIR="$PWD/$ABSL/lib/x86_64-linux-gnu/cmake/GTest"} ${CMAKE_ARGUMENTS:-} >/dev/null
ninja -C "${BUILD:-build/cuda}" "$@" | tail -1
