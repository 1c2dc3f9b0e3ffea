#ifndef THERIA_KERNELS_CUDA_ATTENTION_LAUNCH_H_
#define THERIA_KERNELS_CUDA_ATTENTION_LAUNCH_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/registry.h"

namespace theria::cuda {

// Enqueues one variant over the whole problem. Asynchronous on `stream`, does not synchronise.
// REQUIRES: params as the kernel's own comment says, and sm90a::CanMap(params) for that generation;
// at most 2^31 - 1 blocks.
cudaError_t LaunchKernel(const KernelVariant& variant, const AttentionParams& params,
                         cudaStream_t stream);

// Elements of the float32 sum that params.q_bar_sum must hold for a kVjp variant; 0 for others.
// Padded rows aside this is twice the bytes of q in float16.
std::int64_t QBarSumElements(const KernelVariant& variant, const AttentionParams& params);

// Enqueues the pass that fills params.statistics, inverse_sums and unfolded from o, o_bar, row_sums
// and, where present, saved_lse, o_dot, o_bar_dot and lse_dot, and zeroes params.q_bar_sum where
// present. Asynchronous on `stream`, does not synchronise.
cudaError_t LaunchStatistics(Arithmetic arithmetic, const AttentionParams& params,
                             cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_LAUNCH_H_
