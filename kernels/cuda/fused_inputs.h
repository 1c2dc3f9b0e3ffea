#ifndef THERIA_KERNELS_CUDA_FUSED_INPUTS_H_
#define THERIA_KERNELS_CUDA_FUSED_INPUTS_H_

#include <initializer_list>

#include "absl/status/status.h"
#include "kernels/api/attention.h"
#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/runtime/staging.h"
#include "kernels/cuda/runtime/workspace.h"

// What the fused kernels read, from the tensors and options of a problem.

namespace theria::cuda {

// Sets the sizes, the options and the inputs of `params`. What is absent stays null, but for o_bar
// where the operation needs one: there zeros take its place.
// Errors: RESOURCE_EXHAUSTED (workspace), INTERNAL (launch).
absl::Status BindInputs(const AttentionProblem& problem, const AttentionInputs& inputs,
                        Workspace* workspace, Staging* staging, AttentionParams* params);

// Gives those of the inputs that are null one buffer of zeros. Its rows are real ones: the copy
// engine's strides must not be 0.
absl::Status FillWithZeros(std::initializer_list<InputRows AttentionParams::*> tensors,
                           const AttentionProblem& problem, Workspace* workspace,
                           AttentionParams* params);

// Sets row_keys and key_queries, which extended kernels read.
absl::Status ProvideRowKeys(Workspace* workspace, AttentionParams* params);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_FUSED_INPUTS_H_
