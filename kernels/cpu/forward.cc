#include "kernels/cpu/forward.h"

namespace theria::cpu {

Needs ForwardPass::NeedsFor(const AttentionInputs& /*inputs*/,
                            const AttentionOutputs& outputs) const {
  Needs needs;
  needs.o = outputs.o.has_value();
  return needs;
}

void ForwardPass::AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const {
  rows.ApplyKeep(rows.Keep(tile), rows.p, tile);  // P∘Z
  rows.AddToRows(rows.p, tile, rows.V(tile), blocking.head_dim_v, rows.o);
}

void ForwardPass::AddToKeys(std::int64_t /*tile*/, const Blocking& /*blocking*/,
                            const RowBlock& /*rows*/, const KeySums& /*sums*/) const {}

}  // namespace theria::cpu
