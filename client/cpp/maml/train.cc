#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "theria/maml_train.h"

namespace theria::maml {
namespace {

void AddShare(const Fit& fit, double share, Fit& mean) {
  mean.loss += share * fit.loss;
  mean.accuracy += share * fit.accuracy;
}

}  // namespace

void Adam::Step(const Vector& gradient, Vector& parameters) {
  constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
  if (step_++ == 0) {
    mean_ = Vector::Zero(gradient.size());
    square_ = Vector::Zero(gradient.size());
  }
  mean_ = kBeta1 * mean_ + (1.0 - kBeta1) * gradient;
  square_ = kBeta2 * square_ + (1.0 - kBeta2) * gradient.cwiseAbs2();
  const double mean_share = 1.0 - std::pow(kBeta1, step_);
  const double square_share = 1.0 - std::pow(kBeta2, step_);
  parameters.array() -= learning_rate_ * (mean_.array() / mean_share) /
                        ((square_.array() / square_share).sqrt() + kEpsilon);
}

absl::StatusOr<Vector> MetaTrain(const AttentionClassifier& model, const TaskSpec& tasks,
                                 std::uint64_t seed, const InnerLoop& inner, const OuterLoop& outer,
                                 Mode mode, Vector parameters, const TrainObserver& observer) {
  Adam adam(outer.learning_rate);
  const double share = 1.0 / outer.meta_batch;
  for (int s = 0; s < outer.steps; ++s) {
    OuterStep step{.index = s};
    Vector gradient = Vector::Zero(parameters.size());
    for (int b = 0; b < outer.meta_batch; ++b) {
      const int number = s * outer.meta_batch + b;
      const Task task = MakeTask(tasks, seed, static_cast<std::uint64_t>(number));
      const auto meta = ComputeMetaGradient(model, task, inner, mode, parameters);
      if (!meta.ok()) return meta.status();
      AddShare(meta->before, share, step.before);
      AddShare(meta->after, share, step.after);
      gradient += share * meta->gradient;
      if (observer.on_task) observer.on_task(number + 1, outer.steps * outer.meta_batch);
    }
    step.gradient_norm = gradient.norm();
    if (!std::isfinite(step.after.loss) || !std::isfinite(step.gradient_norm)) {
      return absl::OutOfRangeError(absl::StrCat("diverged in outer step ", s, ": loss ",
                                                step.after.loss, ", meta-gradient norm ",
                                                step.gradient_norm));
    }
    if (observer.on_step) observer.on_step(step);
    adam.Step(gradient, parameters);
  }
  return parameters;
}

}  // namespace theria::maml
