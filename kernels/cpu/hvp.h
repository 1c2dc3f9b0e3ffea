#ifndef THERIA_KERNELS_CPU_HVP_H_
#define THERIA_KERNELS_CPU_HVP_H_

#include "kernels/cpu/output_pass.h"

// HVP, the JVP of the VJP, with the matrices of both and
// P_bar_dot = (o_bar_dot v^T + o_bar v_dot^T)∘Z:
//   S_bar_dot = S_bar∘(S_dot - mu) + P∘(P_bar_dot - delta_dot)
//   delta_dot = rowsum(P_dot∘P_bar + P∘P_bar_dot), the tangent of delta
//   v_bar_dot = (P_dot∘Z)^T o_bar + (P∘Z)^T o_bar_dot
//   q_bar_dot = scale * (S_bar_dot k + S_bar k_dot)
//   k_bar_dot = scale * (S_bar_dot^T q + S_bar^T q_dot)
// and all results of forward, VJP and JVP on request.

namespace theria::cpu {

class HvpPass final : public OutputPass {
 public:
  Needs NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const override;
  void AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const override;
  void AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                 const KeySums& sums) const override;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_HVP_H_
