#ifndef THERIA_KERNELS_CUDA_UNFUSED_UNFUSED_H_
#define THERIA_KERNELS_CUDA_UNFUSED_UNFUSED_H_

#include <string>

#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "kernels/cuda/runtime/workspace.h"
#include "kernels/cuda/unfused/cublas.h"

// The explicit implementation: products by cuBLAS, probabilities stored, the formulas of
// docs/operator_contract.md row by row. It is the oracle on the device and the baseline that the
// fused kernels are measured against. float64 tensors are computed in float64, all others in
// float32 (with TF32 products if the precision is fast), whatever their own dtype; every head_dim
// is served. Workspace: one seq_q x seq_kv matrix for each head and forward, two for VJP and JVP,
// four for HVP.

namespace theria::cuda {

// OK if EnqueueUnfused can run this. Errors: UNIMPLEMENTED.
absl::Status SupportsUnfused(const AttentionProblem& problem);

// Enqueues the computation on the workspace's stream; returns a name for it. Asynchronous, does not
// synchronise. REQUIRES: SupportsUnfused accepted the problem; device pointers; `handle` is used by
// nobody else until the stream has finished.
// Errors: RESOURCE_EXHAUSTED (workspace), INTERNAL.
absl::StatusOr<std::string> EnqueueUnfused(const AttentionProblem& problem,
                                           const AttentionInputs& inputs,
                                           const AttentionOutputs& outputs, cublasHandle_t handle,
                                           Workspace* workspace);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_UNFUSED_H_
