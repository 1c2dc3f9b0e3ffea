#ifndef THERIA_KERNELS_CUDA_ATTENTION_SAVED_LSE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SAVED_LSE_CUH_

#include <cstdint>

#include "kernels/cuda/attention/params.h"

// Which rows of an earlier forward's lse the gradients can use, and which a forward computes again.

namespace theria::cuda {

// Whether exp(S - lse) is as exact as the arithmetic of Mma. Never where products keep float32 or
// float64, whose lse loses some of the sum at any size. False for NaN and for -inf, to which a row
// of very low scores rounds as well as one without any key.
template <typename Mma>
__device__ __forceinline__ bool IsExactEnough(typename Mma::Accumulator lse) {
  using Accumulator = typename Mma::Accumulator;
  constexpr bool kRounds = sizeof(Accumulator) == 4 && !Mma::kSumsTiles;
  return kRounds && lse >= -kLargestFoldedLse && lse <= kLargestFoldedLse;
}

// Whether a forward has to compute any of the `rows` rows from `row` on of one head; the same in
// all threads of the block, all of which call it.
template <typename Mma>
__device__ __forceinline__ bool NeedsRows(const AttentionParams& params, int batch, int head,
                                          int row, int rows) {
  if (params.saved_lse == nullptr) return true;
  const auto* lse = static_cast<const typename Mma::Accumulator*>(params.saved_lse) +
                    (static_cast<std::int64_t>(batch) * params.heads_q + head) * params.seq_q;
  const int end = min(row + rows, params.seq_q);
  bool needed = false;
  for (int at = row + static_cast<int>(threadIdx.x); at < end; at += blockDim.x) {
    needed |= !IsExactEnough<Mma>(lse[at]);
  }
  return __syncthreads_or(needed) != 0;
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SAVED_LSE_CUH_
