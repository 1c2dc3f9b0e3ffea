#ifndef THERIA_KERNELS_CPU_JVP_H_
#define THERIA_KERNELS_CPU_JVP_H_

#include "kernels/cpu/output_pass.h"

// JVP, with S_dot = scale * (q_dot k^T + q k_dot^T) and mu = rowsum(P∘S_dot), the tangent of lse:
//   P_dot = P∘(S_dot - mu)
//   o_dot = (P_dot∘Z) v + (P∘Z) v_dot

namespace theria::cpu {

// Whether S_dot is not zero for want of tangents.
bool HasScoreTangent(const AttentionInputs& inputs);

class JvpPass final : public OutputPass {
 public:
  Needs NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const override;
  void AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const override;
  void AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                 const KeySums& sums) const override;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_JVP_H_
