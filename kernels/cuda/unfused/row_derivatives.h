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
// s_dot, p_bar and p_bar_dot may be null; an absent one counts as zero. So may the rest.
struct RowDerivativesParams {
  void* s;
  void* s_dot;
  void* p_bar;
  void* p_bar_dot;
  void* w;      // written: the slope of the soft cap, for each score
  void* w_dot;  // written: its tangent
  void* lse;
  void* lse_dot;
  const void* lse_bar;
  const void* lse_bar_dot;
  const void* bias_dot;  // of the mask's dtype, needs s_dot
  std::int64_t bias_dot_strides[4];
  std::int64_t batch, heads_q, seq_q, seq_kv;
  double scale;
  ScoreMod score_mod;
};

// Asynchronous on `stream`, does not synchronise. REQUIRES: `dtype` float32 or float64; p_bar is
// present where p_bar_dot is, and w where the soft cap is and a derivative is wanted.
cudaError_t LaunchRowDerivatives(const RowDerivativesParams& params, DType dtype,
                                 cudaStream_t stream);

// S_bar and S_bar_dot become U_bar = w S_bar and U_bar_dot = w S_bar_dot + w_dot S_bar, in place.
// `p_bar_dot` and `w_dot` may be null.
cudaError_t LaunchPullThroughCap(const RowDerivativesParams& params, DType dtype,
                                 cudaStream_t stream);

// Writes the sum of a matrix S_bar or S_bar_dot, as LaunchRowDerivatives left it, over what the
// bias broadcasts over. `data` is bias_bar or bias_bar_dot.
struct BiasSumParams {
  const void* matrix;
  void* data;
  DType data_dtype;
  std::int64_t extents[4];  // of the bias, 1 where it broadcasts
  std::int64_t strides[4];
  std::int64_t batch, heads_q, seq_q, seq_kv;
  ScoreMod score_mod;
};
cudaError_t LaunchBiasSum(const BiasSumParams& params, DType dtype, cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_ROW_DERIVATIVES_H_
