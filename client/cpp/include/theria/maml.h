#ifndef THERIA_MAML_H_
#define THERIA_MAML_H_

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "theria/maml_model.h"

// Model-agnostic meta-learning (Finn, Abbeel and Levine 2017) by the adjoint method, which stores
// the parameters after each inner step and no graph.
//
//     theta_{t+1} = theta_t - alpha * grad L_support(theta_t)            t = 0 .. K-1
//     lambda_K    = grad L_query(theta_K)
//     lambda_t    = lambda_{t+1} - alpha * H_support(theta_t) lambda_{t+1}
//
// lambda_0 is the exact gradient of L_query(theta_K) with respect to theta_0 and equals the
// derivative of the unrolled loop. First-order MAML uses lambda_K instead.
//
// Functions are thread-safe if the model is. Errors of all functions: those of the model's
// AttentionOps.

namespace theria::maml {

enum class Mode : std::uint8_t {
  kFull,      // the meta-gradient is lambda_0
  kFo,        // lambda_K: inner gradients are treated as constants
  kFoStrict,  // lambda_K, and theta_K is treated as a constant too
};

std::string_view ModeName(Mode mode);  // "full", "fo", "fo_strict"
std::optional<Mode> ParseMode(std::string_view name);

struct InnerLoop {
  int steps = 5;
  double learning_rate = 0.1;
};

// theta_0 .. theta_K.
using Trajectory = std::vector<Vector>;

absl::StatusOr<Trajectory> Adapt(const AttentionClassifier& model, const Episode& support,
                                 const InnerLoop& inner, const Vector& parameters);

// lambda_0 for a given lambda_K: the transposed Jacobian of theta_K with respect to theta_0, times
// `cotangent`.
absl::StatusOr<Vector> PullBack(const AttentionClassifier& model, const Episode& support,
                                const InnerLoop& inner, const Trajectory& trajectory,
                                Vector cotangent);

struct MetaGradient {
  Fit before;       // theta_0 on the query set
  Fit after;        // theta_K on the query set
  Vector gradient;  // as `mode` defines it
};

absl::StatusOr<MetaGradient> ComputeMetaGradient(const AttentionClassifier& model, const Task& task,
                                                 const InnerLoop& inner, Mode mode,
                                                 const Vector& parameters);

// The second-order information in a mode's meta-gradient, measured by value.
struct Diagnostics {
  Vector full;         // lambda_0
  Vector first_order;  // lambda_K

  // |lambda_0 - lambda_K| / |lambda_0|: the relative error of first-order MAML.
  double rel_diff = 0.0;

  // The norm of d/d theta_0 of |grad L_query(theta_K)|^2 / 2, along the mode's path from theta_K
  // back to theta_0: PullBack(H_query lambda_K) for kFull, H_query lambda_K for kFo, and zero for
  // kFoStrict, which has no such path.
  double probe_norm = 0.0;

  // Whether probe_norm exceeds rounding error: 1e-9 |lambda_K|.
  bool second_order_path = false;
};

absl::StatusOr<Diagnostics> Diagnose(const AttentionClassifier& model, const Task& task,
                                     const InnerLoop& inner, Mode mode, const Vector& parameters);

}  // namespace theria::maml

#endif  // THERIA_MAML_H_
