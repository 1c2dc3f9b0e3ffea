#!/usr/bin/env bash
# Builds the Debian packages into build/packages; the argument is THERIA_CUDA: ON or OFF.
set -euo pipefail
export CCACHE_BASEDIR=$PWD
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DTHERIA_BUILD_TESTS=OFF -DTHERIA_CUDA="$1"
cmake --build build --target theria-server theria theria_client theria_maml \
  ${THERIA_JOBS:+--parallel "$THERIA_JOBS"}
cd build
cpack -G DEB
