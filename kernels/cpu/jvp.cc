#include "kernels/cpu/jvp.h"

namespace theria::cpu {

bool HasScoreTangent(const AttentionInputs& inputs) {
  return inputs.q_dot.has_value() || inputs.k_dot.has_value() || inputs.bias_dot.has_value();
}

Needs JvpPass::NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const {
  Needs needs;
  needs.o = outputs.o.has_value() && !inputs.o.has_value();
  needs.o_dot = outputs.o_dot.has_value();
  needs.s_dot =
      HasScoreTangent(inputs) && (outputs.o_dot.has_value() || outputs.lse_dot.has_value());
  return needs;
}

void JvpPass::AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const {
  const double* keep = rows.Keep(tile);
  rows.ApplyKeep(keep, rows.p, tile);
  rows.ApplyKeep(keep, rows.s_dot, tile);
  if (rows.o != nullptr) rows.AddToRows(rows.p, tile, rows.V(tile), blocking.head_dim_v, rows.o);
  if (rows.o_dot != nullptr) {
    rows.AddToRows(rows.s_dot, tile, rows.V(tile), blocking.head_dim_v, rows.o_dot);
    rows.AddToRows(rows.p, tile, rows.VDot(tile), blocking.head_dim_v, rows.o_dot);
  }
}

void JvpPass::AddToKeys(std::int64_t /*tile*/, const Blocking& /*blocking*/,
                        const RowBlock& /*rows*/, const KeySums& /*sums*/) const {}

}  // namespace theria::cpu
