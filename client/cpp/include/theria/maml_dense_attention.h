#ifndef THERIA_MAML_DENSE_ATTENTION_H_
#define THERIA_MAML_DENSE_ATTENTION_H_

#include "theria/maml_attention.h"

// The formulas of docs/operator_contract.md on dense float64 matrices, in this process. It is the
// reference for remote meta-gradients. Stateless and thread-safe. Never fails.

namespace theria::maml {

class DenseAttention : public AttentionOps {
 public:
  absl::StatusOr<AttentionOutput> Forward(int batch, const Qkv& x) override;
  absl::StatusOr<Qkv> Vjp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& o_bar) override;
  absl::StatusOr<AttentionTangent> Jvp(int batch, const Qkv& x, const Qkv& x_dot) override;
  absl::StatusOr<Qkv> Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& o_bar, const Qkv& x_dot, const Matrix& o_bar_dot) override;
};

}  // namespace theria::maml

#endif  // THERIA_MAML_DENSE_ATTENTION_H_
