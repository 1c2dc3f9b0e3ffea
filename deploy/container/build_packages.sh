#!/usr/bin/env bash
# Builds the Debian packages into build/packages; the argument is THERIA_CUDA: ON or OFF. The
# environment's THERIA_CMAKE_ARGS and THERIA_JOBS are those of the Dockerfile.
set -euo pipefail
# Both are part of what ccache knows a compilation by: so that one anywhere serves here.
export CCACHE_BASEDIR=$PWD LANG=C.UTF-8
read -ra arguments <<< "${THERIA_CMAKE_ARGS:-}"
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTHERIA_BUILD_TESTS=OFF -DTHERIA_CUDA="$1" \
  "${arguments[@]}"
cmake --build build --target theria-server theria theria_client theria_maml \
  ${THERIA_JOBS:+--parallel "$THERIA_JOBS"}
cd build
cpack -G DEB
