#ifndef THERIA_KERNELS_CPU_VJP_H_
#define THERIA_KERNELS_CPU_VJP_H_

#include "kernels/cpu/output_pass.h"

// VJP, with P_bar = (o_bar v^T)∘Z and delta = rowsum(P∘P_bar), which is rowsum(o_bar∘o):
//   S_bar = P∘(P_bar - delta)
//   v_bar = (P∘Z)^T o_bar    q_bar = scale * S_bar k    k_bar = scale * S_bar^T q

namespace theria::cpu {

class VjpPass final : public OutputPass {
 public:
  Needs NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const override;
  void AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const override;
  void AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                 const KeySums& sums) const override;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_VJP_H_
