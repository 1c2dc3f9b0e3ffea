#ifndef THERIA_KERNELS_CUDA_UNFUSED_ROW_DERIVATIVES_H_
#define THERIA_KERNELS_CUDA_UNFUSED_ROW_DERIVATIVES_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/api/dtype.h"
#include "kernels/api/score_mod.h"

namespace theria::cuda {

// Matrices [batch, heads_q, seq_q, seq_kv] and statistics [batch, heads_q, seq_q], row-major,
// float32 or float64. Every matrix is replaced by what follows from it, in place:
//   s          raw products q k^T               ->  P Z
//   s_dot      q_dot k^T + q k_dot^T            ->  P_dot Z
//   p_bar      o_bar v^T                        ->  S_bar
//   p_bar_dot  o_bar_dot v^T + o_bar v_dot^T    ->  S_bar_dot
// s_dot, p_bar and p_bar_dot may be null; an absent one counts as zero. lse and lse_dot may be
// null.
struct RowDerivativesParams {
  void* s;
  void* s_dot;
  void* p_bar;
  void* p_bar_dot;
  void* lse;
  void* lse_dot;
  std::int64_t batch, heads_q, seq_q, seq_kv;
  double scale;
  ScoreMod score_mod;
};

// Asynchronous on `stream`, does not synchronise. REQUIRES: `dtype` float32 or float64; p_bar is
// present where p_bar_dot is.
cudaError_t LaunchRowDerivatives(const RowDerivativesParams& params, DType dtype,
                                 cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_ROW_DERIVATIVES_H_
