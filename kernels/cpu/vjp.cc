#include "kernels/cpu/vjp.h"

namespace theria::cpu {

Needs VjpPass::NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const {
  Needs needs;
  needs.o = outputs.o.has_value() && !inputs.o.has_value();
  needs.q_bar = outputs.q_bar.has_value();
  needs.k_bar = outputs.k_bar.has_value();
  needs.v_bar = outputs.v_bar.has_value();
  needs.bias_bar = outputs.bias_bar.has_value();
  needs.p_bar = needs.q_bar || needs.k_bar || needs.bias_bar;
  return needs;
}

void VjpPass::AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const {
  rows.ApplyKeep(rows.Keep(tile), rows.p, tile);
  if (rows.o != nullptr) rows.AddToRows(rows.p, tile, rows.V(tile), blocking.head_dim_v, rows.o);
  if (rows.q_bar != nullptr) {
    rows.AddToRows(rows.p_bar, tile, rows.K(tile), blocking.head_dim, rows.q_bar);
  }
}

void VjpPass::AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                        const KeySums& sums) const {
  if (sums.k_bar != nullptr) {
    rows.AddToKeys(rows.p_bar, tile, rows.q.rows, blocking.head_dim, sums.k_bar);
  }
  if (sums.v_bar != nullptr) {
    rows.AddToKeys(rows.p, tile, rows.o_bar.rows, blocking.head_dim_v, sums.v_bar);
  }
}

}  // namespace theria::cpu
