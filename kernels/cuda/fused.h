#ifndef THERIA_KERNELS_CUDA_FUSED_H_
#define THERIA_KERNELS_CUDA_FUSED_H_

#include <string>

#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "kernels/cuda/registry.h"
#include "kernels/cuda/runtime/workspace.h"

// The fused implementation: which kernels a problem takes, in which order, and on which buffers.
// Nothing of size seq_q x seq_kv exists; the workspace grows with the rows of q.

namespace theria::cuda {

// OK if EnqueueFused has kernels for this. Errors: UNIMPLEMENTED, naming what is supported.
absl::Status SupportsFused(const AttentionProblem& problem, const AttentionOptions& options,
                           const KernelChooser& kernels);

// Enqueues the computation on the workspace's stream and returns the names of the kernels, joined
// by '+'. Asynchronous, does not synchronise.
// REQUIRES: SupportsFused accepted the problem; device pointers.
// Errors: RESOURCE_EXHAUSTED (workspace), INTERNAL (launch).
absl::StatusOr<std::string> EnqueueFused(const AttentionProblem& problem,
                                         const AttentionInputs& inputs,
                                         const AttentionOutputs& outputs,
                                         const KernelChooser& kernels, Workspace* workspace);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_FUSED_H_
