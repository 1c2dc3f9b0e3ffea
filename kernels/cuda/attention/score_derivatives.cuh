#ifndef THERIA_KERNELS_CUDA_ATTENTION_SCORE_DERIVATIVES_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SCORE_DERIVATIVES_CUH_

#include "kernels/cuda/attention/exponent.cuh"
#include "kernels/cuda/attention/params.h"

// The tangent of the VJP at one score; hvp.cuh has the formulas.

namespace theria::cuda {

// What one score contributes.
template <typename Accumulator>
struct ScoreDerivatives {
  Accumulator p, p_dot, s_bar, s_bar_dot;
};

// `s_dot` is not yet scaled; `p_bar` and `p_bar_dot` have dropout applied. All four still lack the
// row's inverse sum, to which they are proportional.
template <typename Mma, bool kGeneral, typename Accumulator>
__device__ __forceinline__ ScoreDerivatives<Accumulator> Differentiate(
    Accumulator s, Accumulator s_dot, Accumulator p_bar, Accumulator p_bar_dot,
    Accumulator log2_scale, Accumulator scale, const RowStatistics<Accumulator>& of_row) {
  ScoreDerivatives<Accumulator> result;
  const Accumulator centred = s_dot * scale - of_row.mu;
  result.p = Mma::Exp2(Exponent<kGeneral>(s, log2_scale, of_row.shift));
  result.p_dot = result.p * centred;
  result.s_bar = result.p * (p_bar - of_row.delta);
  result.s_bar_dot = result.s_bar * centred + result.p * (p_bar_dot - of_row.delta_dot);
  return result;
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SCORE_DERIVATIVES_CUH_
