#!/bin/bash
# Packs what tests/cuda/service_on_device.sh needs into .bundle/: the programs of a build whose CUDA
# backend is a shared library, the libraries that they load, Abseil to build that backend with, and the
# Python client with the packages that a machine with PyTorch and grpcio lacks.
#   cmake --preset release -DTHERIA_CUDA_LIBRARY=SHARED && cmake --build --preset release
#   tests/cuda/pack_service.sh [BUILD [CLI]]
# BUILD: default build. CLI: another `theria` command than the build's.
set -euo pipefail
cd "$(dirname "$0")/../.."
build=${1:-build}
cli=${2:-$build/bin/theria}
multiarch=$(gcc -dumpmachine)
lib=.bundle/usr/lib/$multiarch
packages=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

rm -rf .bundle
mkdir -p .bundle/bin "$lib/cmake" .bundle/usr/include .bundle/python
cp "$build/bin/theria-server" "$build/tests/conformance_test" "$cli" .bundle/bin/
strip .bundle/bin/*

# All that they load but the C and C++ runtimes; the CUDA backend is built where the GPU is.
for program in .bundle/bin/*; do
  LD_LIBRARY_PATH=$build/kernels/cuda ldd "$program" | awk '$2 == "=>" { print $3 }'
done | sort -u | while read -r library; do
  case $(basename "$library") in
    libc.so* | libm.so* | libdl.so* | librt.so* | libpthread.so* | libgcc_s.so* | libstdc++.so* | \
      libtheria_kernels_cuda.so*) ;;
    *) cp -L "$library" "$lib/" ;;
  esac
done

cp -r /usr/include/absl .bundle/usr/include/
cp -r "/usr/lib/$multiarch/cmake/absl" "$lib/cmake/"
cp -P "/usr/lib/$multiarch"/libabsl_*.so* "$lib/"
strip --strip-unneeded "$lib"/*.so.* 2>/dev/null || true

cp -r client/python/src/theria .bundle/python/
mkdir -p .bundle/python/google
cp -r "$packages"/google/{protobuf,rpc,_upb} .bundle/python/google/
cp -r "$packages/grpc_health" .bundle/python/
cat kernels/api/*.h kernels/cuda/backend.h | sha256sum >.bundle/interface.sha256
find .bundle/python -name __pycache__ -prune -exec rm -rf {} +
du -sh .bundle
