#ifndef THERIA_MAML_ATTENTION_H_
#define THERIA_MAML_ATTENTION_H_

#include "absl/status/statusor.h"
#include "theria/maml_task.h"

// The interface of attention for the meta-learner: the four operations of the operator contract on
// float64 matrices, with one head. Implementations use a server (maml_remote_attention.h) or this
// process (maml_dense_attention.h).
//
// Matrices stack the batch: example b has rows b * seq .. (b + 1) * seq - 1.
//
//     q  [batch * seq_q, head_dim]     k  [batch * seq_kv, head_dim]
//     v  [batch * seq_kv, head_dim_v]  o  [batch * seq_q, head_dim_v]   lse  [batch * seq_q]
//
// Scores are scaled by 1 / sqrt(head_dim); no mask. Implementations need not be thread-safe.

namespace theria::maml {

struct Qkv {
  Matrix q, k, v;
};

// The result of a forward pass, which derivatives at the same point reuse.
struct AttentionOutput {
  Matrix o;
  Vector lse;
};

struct AttentionTangent {
  AttentionOutput primal;
  Matrix o_dot;
};

class AttentionOps {
 public:
  virtual ~AttentionOps() = default;

  // REQUIRES for all methods: shapes as above, `batch` divides the rows, `saved` belongs to the
  // same `x`. Errors: those of the implementation.

  virtual absl::StatusOr<AttentionOutput> Forward(int batch, const Qkv& x) = 0;

  // x_bar for the cotangent o_bar of o.
  virtual absl::StatusOr<Qkv> Vjp(int batch, const Qkv& x, const AttentionOutput& saved,
                                  const Matrix& o_bar) = 0;

  // o and its tangent for the tangent x_dot of x.
  virtual absl::StatusOr<AttentionTangent> Jvp(int batch, const Qkv& x, const Qkv& x_dot) = 0;

  // x_bar_dot: the tangent of Vjp(x, o_bar) in the direction (x_dot, o_bar_dot).
  virtual absl::StatusOr<Qkv> Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                                  const Matrix& o_bar, const Qkv& x_dot,
                                  const Matrix& o_bar_dot) = 0;
};

}  // namespace theria::maml

#endif  // THERIA_MAML_ATTENTION_H_
