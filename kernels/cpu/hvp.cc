#include "kernels/cpu/hvp.h"

#include "kernels/cpu/jvp.h"
#include "kernels/cpu/vjp.h"

namespace theria::cpu {

Needs HvpPass::NeedsFor(const AttentionInputs& inputs, const AttentionOutputs& outputs) const {
  Needs needs = JvpPass().NeedsFor(inputs, outputs);
  const Needs vjp = VjpPass().NeedsFor(inputs, outputs);
  needs.q_bar = vjp.q_bar;
  needs.k_bar = vjp.k_bar;
  needs.v_bar = vjp.v_bar;
  needs.q_bar_dot = outputs.q_bar_dot.has_value();
  needs.k_bar_dot = outputs.k_bar_dot.has_value();
  needs.v_bar_dot = outputs.v_bar_dot.has_value();
  needs.bias_bar = vjp.bias_bar;
  needs.bias_bar_dot = outputs.bias_bar_dot.has_value();
  needs.second_order = needs.q_bar_dot || needs.k_bar_dot || needs.bias_bar_dot;
  needs.p_bar = vjp.p_bar || needs.second_order;
  needs.s_dot |= needs.second_order || (needs.v_bar_dot && HasScoreTangent(inputs));
  return needs;
}

void HvpPass::AddToRows(std::int64_t tile, const Blocking& blocking, RowBlock& rows) const {
  JvpPass().AddToRows(tile, blocking, rows);
  if (rows.q_bar != nullptr) {
    rows.AddToRows(rows.p_bar, tile, rows.K(tile), blocking.head_dim, rows.q_bar);
  }
  if (rows.q_bar_dot != nullptr) {
    rows.AddToRows(rows.p_bar_dot, tile, rows.K(tile), blocking.head_dim, rows.q_bar_dot);
    rows.AddToRows(rows.p_bar, tile, rows.KDot(tile), blocking.head_dim, rows.q_bar_dot);
  }
}

void HvpPass::AddToKeys(std::int64_t tile, const Blocking& blocking, const RowBlock& rows,
                        const KeySums& sums) const {
  VjpPass().AddToKeys(tile, blocking, rows, sums);
  if (sums.k_bar_dot != nullptr) {
    rows.AddToKeys(rows.p_bar_dot, tile, rows.q.rows, blocking.head_dim, sums.k_bar_dot);
    rows.AddToKeys(rows.p_bar, tile, rows.q_dot.rows, blocking.head_dim, sums.k_bar_dot);
  }
  if (sums.v_bar_dot != nullptr) {
    rows.AddToKeys(rows.s_dot, tile, rows.o_bar.rows, blocking.head_dim_v, sums.v_bar_dot);
    rows.AddToKeys(rows.p, tile, rows.o_bar_dot.rows, blocking.head_dim_v, sums.v_bar_dot);
  }
}

}  // namespace theria::cpu
