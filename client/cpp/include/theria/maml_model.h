#ifndef THERIA_MAML_MODEL_H_
#define THERIA_MAML_MODEL_H_

#include "absl/status/statusor.h"
#include "theria/maml_attention.h"
#include "theria/maml_task.h"

// A small attention classifier: one attention head whose only query is token 0, between linear
// layers. x_0 is the first token of each of the N sequences, Y the one-hot labels:
//
//     q = x_0 w_q^T    k = x w_k^T    v = x w_v^T    o = attention(q, k, v)
//     z = o w_head^T + b_head         p = softmax(z)  loss = -mean log p[label]
//
// The gradient and the Hessian-vector product are written out by hand and call an AttentionOps for
// attention. They are exact if the AttentionOps is. Backward:
//
//     z_bar = (p - Y) / N             w_head_bar = z_bar^T o     b_head_bar = sum_rows z_bar
//     o_bar = z_bar w_head            x_bar by the VJP           w_q_bar = q_bar^T x_0, ...
//
// Forward over reverse, for a direction w_dot:
//
//     q_dot = x_0 w_q_dot^T, ...      o_dot by the JVP
//     z_dot = o_dot w_head^T + o w_head_dot^T + b_head_dot
//     z_bar_dot = p * (z_dot - rowsum(p * z_dot)) / N
//     w_head_bar_dot = z_bar_dot^T o + z_bar^T o_dot
//     b_head_bar_dot = sum_rows z_bar_dot
//     o_bar_dot = z_bar_dot w_head + z_bar w_head_dot
//     x_bar_dot by the HVP            w_q_bar_dot = q_bar_dot^T x_0, ...
//
// Thread-safe if the AttentionOps is. The AttentionOps must outlive the model.

namespace theria::maml {

// The fit of parameters to an episode.
struct Fit {
  double loss = 0.0;      // mean cross-entropy, natural log
  double accuracy = 0.0;  // fraction of correct predictions, in [0, 1]
};

struct FitAndGradient {
  Fit fit;
  Vector gradient;  // of the loss, in the layout of MakeParameters
};

class AttentionClassifier {
 public:
  AttentionClassifier(int d_model, int classes, AttentionOps& ops);

  // REQUIRES for all methods: `parameters` and `direction` have parameter_count() elements.
  // Episodes have d_model columns and labels below `classes`. Errors: those of the AttentionOps.

  // One Forward.
  absl::StatusOr<Fit> Evaluate(const Vector& parameters, const Episode& episode) const;

  // One Forward, one Vjp.
  absl::StatusOr<FitAndGradient> Gradient(const Vector& parameters, const Episode& episode) const;

  // The loss's Hessian times `direction`: one Jvp, one Hvp.
  absl::StatusOr<Vector> HessianVector(const Vector& parameters, const Episode& episode,
                                       const Vector& direction) const;

  Eigen::Index parameter_count() const;

 private:
  int d_model_;
  int classes_;
  AttentionOps& ops_;
};

}  // namespace theria::maml

#endif  // THERIA_MAML_MODEL_H_
