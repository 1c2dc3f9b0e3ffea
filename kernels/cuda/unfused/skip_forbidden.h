#ifndef THERIA_KERNELS_CUDA_UNFUSED_SKIP_FORBIDDEN_H_
#define THERIA_KERNELS_CUDA_UNFUSED_SKIP_FORBIDDEN_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/api/dtype.h"
#include "kernels/api/score_mod.h"

// cuBLAS multiplies forbidden pairs too, whose weight is 0: where their operand is NaN or infinite,
// the result is NaN. This pass computes the elements that are NaN again without those pairs.

namespace theria::cuda {

// c = alpha * (op(a[0]) b[0] + op(a[1]) b[1]) for each batch and key head, row-major and packed.
// The weights `a` are [group * seq_q, seq_kv]; op transposes them where `of_keys`. The second pair
// is nullable.
struct WeightedSumParams {
  const void* a[2];
  const void* b[2];
  void* c;
  bool of_keys;  // rows of c are keys, not queries
  double alpha;
  std::int64_t batch, heads_kv, group, seq_q, seq_kv;
  std::int64_t columns;  // of b and c
  ScoreMod score_mod;
};

// `dtype` of all matrices: float32 or float64. Asynchronous on `stream`, does not synchronise.
cudaError_t LaunchSkipForbidden(const WeightedSumParams& params, DType dtype, cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_SKIP_FORBIDDEN_H_
