#ifndef THERIA_KERNELS_CUDA_ATTENTION_INSTANTIATE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_INSTANTIATE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/attention/forward.cuh"
#include "kernels/cuda/attention/hvp.cuh"
#include "kernels/cuda/attention/jvp.cuh"
#include "kernels/cuda/attention/statistics.cuh"
#include "kernels/cuda/attention/vjp.cuh"
#include "kernels/cuda/attention/vjp_paired.cuh"
#include "kernels/cuda/primitives/sm80/mma_float64.cuh"
#include "kernels/cuda/primitives/sm80/mma_half.cuh"
#include "kernels/cuda/primitives/sm80/mma_tf32.cuh"
#include "kernels/cuda/registry.h"

// What a generated instantiation file consists of: the variants of one kind, arithmetic and dim.

namespace theria::cuda {

template <Arithmetic kArithmetic>
struct MmaOf;
template <>
struct MmaOf<Arithmetic::kFloat16> {
  using Type = sm80::MmaHalf<__half>;
};
template <>
struct MmaOf<Arithmetic::kBFloat16> {
  using Type = sm80::MmaHalf<__nv_bfloat16>;
};
template <>
struct MmaOf<Arithmetic::kTf32> {
  using Type = sm80::MmaTf32;
};
template <>
struct MmaOf<Arithmetic::kFloat32> {
  using Type = sm80::MmaTf32x3;
};
template <>
struct MmaOf<Arithmetic::kFloat64> {
  using Type = sm80::MmaFloat64;
};

template <Arithmetic kArithmetic, KernelKind kKind, int kDim, bool kGeneral, TangentSet kTangents>
KernelVariant MakeVariant(const char* name) {
  using Tiles = Tiling<kKind, typename MmaOf<kArithmetic>::Type, kDim, kGeneral>;
  const void* function = nullptr;
  if constexpr (kKind == KernelKind::kForward) {
    function = reinterpret_cast<const void*>(&ForwardKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kJvp) {
    function = reinterpret_cast<const void*>(&JvpKernel<Tiles, kTangents>);
  } else if constexpr (kKind == KernelKind::kVjpQueries) {
    function = reinterpret_cast<const void*>(&VjpQueriesKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys && Tiles::kPaired) {
    function = reinterpret_cast<const void*>(&VjpKeysPairedKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys) {
    function = reinterpret_cast<const void*>(&VjpKeysKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kHvpQueries) {
    function = reinterpret_cast<const void*>(&HvpQueriesKernel<Tiles, kTangents>);
  } else {
    function = reinterpret_cast<const void*>(&HvpKeysKernel<Tiles, kTangents>);
  }
  return {{kKind, kArithmetic, kDim, kGeneral, kTangents},
          name,
          function,
          Tiles::kRows,
          Tiles::kKeyRows,
          Tiles::kSlices,
          Tiles::kThreads,
          Tiles::kSharedBytes};
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_INSTANTIATE_CUH_
