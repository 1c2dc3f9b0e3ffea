#include "kernels/cpu/jvp.h"

namespace theria::cpu {

Needs JvpPass::NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const {
  Needs needs;
  needs.o = outputs.o.has_value() && !inputs.o.has_value();
  needs.o_dot = outputs.o_dot.has_value();
  needs.s_dot = (inputs.q_dot.has_value() || inputs.k_dot.has_value()) &&
                (outputs.o_dot.has_value() || outputs.lse_dot.has_value());
  return needs;
}

void JvpPass::AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const {
  rows.Differentiate(tile);  // P_dot
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
