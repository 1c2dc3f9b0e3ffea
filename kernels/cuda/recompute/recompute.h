#ifndef THERIA_KERNELS_CUDA_RECOMPUTE_RECOMPUTE_H_
#define THERIA_KERNELS_CUDA_RECOMPUTE_RECOMPUTE_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/api/dtype.h"
#include "kernels/cuda/attention/params.h"

// Rows that the tensor cores spoiled, computed again one by one.
//
// A key that a row may not see has a probability of exactly 0, but the tensor cores multiply all
// keys of a tile, and 0 * NaN is NaN. Testing operands in the mainloop would cost every call. So
// the fused kernels only note which groups of rows came out with a NaN (NanFlags), and the two
// kernels here recompute the rows of NaN with scalar arithmetic that skips forbidden pairs. A NaN
// that takes part comes out again. Without a NaN both kernels return after reading the flags.

namespace theria::cuda {

struct RecomputeParams {
  // Outputs as the kernels wrote them. Inputs, `statistics` and `inverse_sums` as for the
  // gradients; both are overwritten where there are flags.
  AttentionParams attention;
  // As AttentionParams::nan_flags; nullable. Of kernels whose rows are queries, and keys.
  const std::uint32_t* query_flags[2];
  const std::uint32_t* key_flags[2];
};

// Enqueues the recomputation: of o, o_dot, lse_dot, q_bar and q_bar_dot, then of the four outputs
// of keys. Asynchronous on `stream`, does not synchronise.
cudaError_t LaunchRecompute(const RecomputeParams& params, DType dtype, cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RECOMPUTE_RECOMPUTE_H_
