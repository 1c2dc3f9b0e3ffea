#ifndef THERIA_KERNELS_CPU_FORWARD_H_
#define THERIA_KERNELS_CPU_FORWARD_H_

#include "kernels/cpu/output_pass.h"

// Forward, with P = exp(S - lse) from the score pass:
//   o = (P∘Z) v

namespace theria::cpu {

class ForwardPass final : public OutputPass {
 public:
  Needs NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const override;
  void AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const override;
  void AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                 const KeySums& sums) const override;
};

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_FORWARD_H_
