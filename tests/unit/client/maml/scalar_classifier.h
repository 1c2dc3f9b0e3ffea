#ifndef THERIA_TESTS_UNIT_CLIENT_MAML_SCALAR_CLASSIFIER_H_
#define THERIA_TESTS_UNIT_CLIENT_MAML_SCALAR_CLASSIFIER_H_

#include <cmath>
#include <vector>

#include "tests/unit/client/maml/complex_tape.h"
#include "theria/maml_task.h"

// The attention classifier's loss spelled out number by number on a Tape, and the loss of an
// unrolled inner loop over it. The oracle of the tests here; slow, for small tasks.

namespace theria::maml {

using ComplexParameters = std::vector<Complex>;

// sum_i w[row * d + i] * x[i], the linear layer's element `row`.
inline Variable Linear(const std::vector<Variable>& w, std::size_t offset, int row, const double* x,
                       int d) {
  Variable sum = x[0] * w[offset + row * d];
  for (int i = 1; i < d; ++i) sum = sum + x[i] * w[offset + row * d + i];
  return sum;
}

inline Variable ScalarLoss(const TaskSpec& spec, const Episode& episode,
                           const std::vector<Variable>& w) {
  const int d = spec.d_model, examples = static_cast<int>(episode.labels.size());
  const std::size_t square = static_cast<std::size_t>(d) * d;
  std::vector<Variable> losses;
  for (int n = 0; n < examples; ++n) {
    const auto token = [&](int t) { return episode.x.row(n * spec.length + t).data(); };
    std::vector<Variable> q, weights;
    for (int i = 0; i < d; ++i) q.push_back(Linear(w, 0, i, token(0), d));
    for (int t = 0; t < spec.length; ++t) {
      Variable score = q[0] * Linear(w, square, 0, token(t), d);
      for (int i = 1; i < d; ++i) score = score + q[i] * Linear(w, square, i, token(t), d);
      weights.push_back(Exp(1.0 / std::sqrt(d) * score));
    }
    Variable weight_sum = weights[0];
    for (int t = 1; t < spec.length; ++t) weight_sum = weight_sum + weights[t];
    std::vector<Variable> o;
    for (int i = 0; i < d; ++i) {
      Variable sum = weights[0] * Linear(w, 2 * square, i, token(0), d);
      for (int t = 1; t < spec.length; ++t) {
        sum = sum + weights[t] * Linear(w, 2 * square, i, token(t), d);
      }
      o.push_back(sum / weight_sum);
    }
    std::vector<Variable> z;
    for (int c = 0; c < spec.classes; ++c) {
      Variable sum = w[3 * square + static_cast<std::size_t>(spec.classes) * d + c];
      for (int i = 0; i < d; ++i) sum = sum + w[3 * square + c * d + i] * o[i];
      z.push_back(sum);
    }
    Variable partition = Exp(z[0]);
    for (int c = 1; c < spec.classes; ++c) partition = partition + Exp(z[c]);
    losses.push_back(Log(partition) - z[episode.labels[n]]);
  }
  Variable total = losses[0];
  for (int n = 1; n < examples; ++n) total = total + losses[n];
  return 1.0 / examples * total;
}

inline std::vector<Variable> Inputs(Tape& tape, const ComplexParameters& parameters) {
  std::vector<Variable> inputs;
  for (const Complex& value : parameters) inputs.push_back(tape.Input(value));
  return inputs;
}

inline ComplexParameters ScalarGradient(const TaskSpec& spec, const Episode& episode,
                                        const ComplexParameters& parameters) {
  Tape tape;
  const std::vector<Variable> inputs = Inputs(tape, parameters);
  return tape.Gradient(ScalarLoss(spec, episode, inputs), inputs.size());
}

// L_query(theta_K), unrolled.
inline Complex UnrolledLoss(const TaskSpec& spec, const Task& task, int steps, double learning_rate,
                            ComplexParameters parameters) {
  for (int t = 0; t < steps; ++t) {
    const ComplexParameters gradient = ScalarGradient(spec, task.support, parameters);
    for (std::size_t i = 0; i < parameters.size(); ++i) {
      parameters[i] -= learning_rate * gradient[i];
    }
  }
  Tape tape;
  return ScalarLoss(spec, task.query, Inputs(tape, parameters)).value;
}

// `parameters` + i * kComplexStep * direction.
inline ComplexParameters Perturbed(const Vector& parameters, const Vector& direction) {
  ComplexParameters result;
  for (Eigen::Index i = 0; i < parameters.size(); ++i) {
    result.emplace_back(parameters[i], kComplexStep * direction[i]);
  }
  return result;
}

}  // namespace theria::maml

#endif  // THERIA_TESTS_UNIT_CLIENT_MAML_SCALAR_CLASSIFIER_H_
