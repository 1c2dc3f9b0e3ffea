#ifndef THERIA_KERNELS_CPU_RUN_H_
#define THERIA_KERNELS_CPU_RUN_H_

#include "absl/status/status.h"
#include "kernels/api/backend.h"
#include "kernels/cpu/row_block.h"
#include "kernels/cpu/thread_pool.h"

namespace theria::cpu {

// Computes the outputs of context.problem.operation on `pool`, or on the calling thread alone where
// handing work over would cost more than it saves. Errors: RESOURCE_EXHAUSTED, what `interrupt`
// gives.
absl::Status RunOperation(const RunContext& context, const Interrupt& interrupt, ThreadPool& pool);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_RUN_H_
