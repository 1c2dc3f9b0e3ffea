#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_PRODUCTS_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_PRODUCTS_CUH_

#include <cstdint>

#include "kernels/cuda/primitives/sm90a/wgmma.cuh"

// A warpgroup's products of tiles, asynchronous: between FenceProducts and CommitProducts.
// Accumulators are [1][kBlocks][4], as products.cuh has them with one row tile. Tiles are panels of
// 64 columns, kPanelBytes apart; `a` and `b` are the shared addresses of their first row used.

namespace theria::cuda::sm90a {

// c = a b^T, or c += a b^T where kAccumulate: `a` is [64, kDim], `b` is [8 * kBlocks, kDim].
template <typename Mma, int kDim, int kPanelA, int kPanelB, bool kAccumulate = false, int kBlocks>
__device__ __forceinline__ void MultiplyRowsByRows(float (&c)[1][kBlocks][4], std::uint32_t a,
                                                   std::uint32_t b) {
  const std::uint64_t first_a = RowsDescriptor(a);
  const std::uint64_t first_b = RowsDescriptor(b);
#pragma unroll
  for (int inner = 0; inner < kDim; inner += 16) {
    const int panel = inner / kPanelColumns;
    const int within = inner % kPanelColumns * 2;
    const std::uint64_t left = AdvanceDescriptor(first_a, panel * kPanelA + within);
    const std::uint64_t right = AdvanceDescriptor(first_b, panel * kPanelB + within);
    if (kAccumulate || inner > 0) {
      Wgmma<8 * kBlocks>::template AddShared<typename Mma::Element>(c[0], left, right);
    } else {
      Wgmma<8 * kBlocks>::template SetShared<typename Mma::Element>(c[0], left, right);
    }
  }
}

// The same for a stationary tile and a moving one of a kernel.
template <typename Tiling, bool kAccumulate = false, int kBlocks>
__device__ __forceinline__ void MultiplyRowTiles(float (&c)[1][kBlocks][4], std::uint32_t a,
                                                 std::uint32_t b) {
  MultiplyRowsByRows<typename Tiling::Mma, Tiling::kDim, Tiling::kRowPanelBytes,
                     Tiling::kColumnPanelBytes, kAccumulate>(c, a, b);
}

// c += a b: `a` are fragments of [64, 16 * kSteps], `b` is [16 * kSteps, 8 * kBlocks].
template <typename Mma, int kPanelB, int kSteps, int kBlocks>
__device__ __forceinline__ void AddFragmentsByTile(float (&c)[1][kBlocks][4],
                                                   const typename Mma::A (&a)[kSteps],
                                                   std::uint32_t b) {
  const std::uint64_t first_b = ColumnsDescriptor(b, kPanelB);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    Wgmma<8 * kBlocks>::template AddFragments<typename Mma::Element>(
        c[0], a[step].x, AdvanceDescriptor(first_b, step * 16 * kPanelRowBytes));
  }
}

// Rounds accumulators to the fragments of a left side.
template <typename Mma, int kBlocks>
__device__ __forceinline__ void MakeFragments(typename Mma::A (&a)[kBlocks / 2],
                                              const float (&c)[1][kBlocks][4]) {
#pragma unroll
  for (int step = 0; step < kBlocks / 2; ++step) {
    a[step] = Mma::MakeA(&c[0][2 * step]);
#pragma unroll
    for (std::uint32_t& x : a[step].x) asm volatile("" : "+r"(x)::"memory");
  }
}

// Waits for all groups but the `kPending` youngest, after which the accumulators `c` may be read.
template <int kPending, typename... Accumulators>
__device__ __forceinline__ void WaitFor(Accumulators&... c) {
  WaitForProducts<kPending>();
  (PinAccumulators(c), ...);
}

// Keeps ptxas from moving what `x`, which is never negative, is computed from below the wait that
// follows, where no product would run beside it. The instruction that needs x is never executed,
// and would do no harm.
__device__ __forceinline__ void FinishBeforeWait(float x) {
  asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %0, 0f00000000;\n@p nanosleep.u32 1;\n}" ::"f"(x)
               : "memory");
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_PRODUCTS_CUH_
