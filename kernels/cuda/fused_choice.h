#ifndef THERIA_KERNELS_CUDA_FUSED_CHOICE_H_
#define THERIA_KERNELS_CUDA_FUSED_CHOICE_H_

#include <vector>

#include "kernels/api/attention.h"
#include "kernels/cuda/compiled_kernel.h"

// What the options of a problem ask of the fused kernels.

namespace theria::cuda {

// Extended kernels have no TF32 arithmetic: they compute float32's.
Arithmetic ArithmeticOf(DType dtype, Precision precision, bool extended);

// Plain kernels know causal and window limits only, and fold the scale into the exponential.
bool NeedsGeneral(const AttentionProblem& problem, const AttentionOptions& options);

// Whether the options ask for more than general kernels know. A bias_dot does too.
bool NeedsExtended(const AttentionOptions& options);

// Whether there can be pairs that take no part, which only tensor cores multiply.
bool ForbidsPairs(const AttentionOptions& options);

// The kernels that an operation may launch.
std::vector<KernelKind> KindsOf(Operation operation);

// Moves a lower-right diagonal into the window's sides, which plain and general kernels count from
// the upper left one. REQUIRES: no documents, no ALiBi.
void FoldAlignment(ScoreMod* mod);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_FUSED_CHOICE_H_
