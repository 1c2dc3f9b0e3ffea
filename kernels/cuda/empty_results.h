#ifndef THERIA_KERNELS_CUDA_EMPTY_RESULTS_H_
#define THERIA_KERNELS_CUDA_EMPTY_RESULTS_H_

#include <cuda_runtime_api.h>

#include "absl/status/status.h"
#include "kernels/api/attention.h"

namespace theria::cuda {

// Enqueues the results of a problem without a score: zeros, and -inf for lse. Asynchronous on
// `stream`, does not synchronise. Errors: INTERNAL (launch).
absl::Status EnqueueEmptyResults(const AttentionOutputs& outputs, cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_EMPTY_RESULTS_H_
