#ifndef THERIA_KERNELS_CUDA_ATTENTION_MMA_OF_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_MMA_OF_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/compiled_kernel.h"
#include "kernels/cuda/primitives/sm80/mma_float64.cuh"
#include "kernels/cuda/primitives/sm80/mma_half.cuh"
#include "kernels/cuda/primitives/sm80/mma_tf32.cuh"

namespace theria::cuda {

// The warp's arithmetic of each enumerator.
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

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_MMA_OF_CUH_
