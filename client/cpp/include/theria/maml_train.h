#ifndef THERIA_MAML_TRAIN_H_
#define THERIA_MAML_TRAIN_H_

#include <cstdint>
#include <functional>

#include "absl/status/statusor.h"
#include "theria/maml.h"

// The outer loop: trains the initial parameters with the mean meta-gradient of a batch of fresh
// tasks and Adam (Kingma and Ba 2015; beta_1 = 0.9, beta_2 = 0.999, epsilon = 1e-8).
//
//     step s uses the tasks number s * meta_batch .. (s + 1) * meta_batch - 1 of the seed

namespace theria::maml {

struct OuterLoop {
  int steps = 1;
  int meta_batch = 1;  // tasks per step
  double learning_rate = 1e-3;
};

// Means over the meta-batch.
struct OuterStep {
  int index = 0;
  Fit before;                  // on the query sets, before adaptation
  Fit after;                   // on the query sets, after adaptation
  double gradient_norm = 0.0;  // of the mean meta-gradient
};

// Minimises in place, one step per call. Not thread-safe.
class Adam {
 public:
  explicit Adam(double learning_rate) : learning_rate_(learning_rate) {}

  // REQUIRES: the sizes of the first call.
  void Step(const Vector& gradient, Vector& parameters);

 private:
  double learning_rate_;
  int step_ = 0;
  Vector mean_, square_;
};

// Callbacks after each task's meta-gradient and after each step. Both may be null.
struct TrainObserver {
  std::function<void(int done_tasks, int all_tasks)> on_task;
  std::function<void(const OuterStep&)> on_step;
};

// Returns the trained parameters.
//
// Errors: those of the model; OUT_OF_RANGE if a loss or gradient is not finite.
absl::StatusOr<Vector> MetaTrain(const AttentionClassifier& model, const TaskSpec& tasks,
                                 std::uint64_t seed, const InnerLoop& inner, const OuterLoop& outer,
                                 Mode mode, Vector parameters, const TrainObserver& observer = {});

}  // namespace theria::maml

#endif  // THERIA_MAML_TRAIN_H_
