#include "theria/maml.h"

#include <utility>

namespace theria::maml {
namespace {

// What of |grad L_query|^2 is rounding, when its derivative should be zero.
constexpr double kProbeTolerance = 1e-9;

struct Adapted {
  Trajectory trajectory;
  FitAndGradient query;  // at theta_K; its gradient is lambda_K
};

absl::StatusOr<Adapted> AdaptAndJudge(const AttentionClassifier& model, const Task& task,
                                      const InnerLoop& inner, const Vector& parameters) {
  auto trajectory = Adapt(model, task.support, inner, parameters);
  if (!trajectory.ok()) return trajectory.status();
  auto query = model.Gradient(trajectory->back(), task.query);
  if (!query.ok()) return query.status();
  return Adapted{*std::move(trajectory), *std::move(query)};
}

}  // namespace

std::string_view ModeName(Mode mode) {
  switch (mode) {
    case Mode::kFull:
      return "full";
    case Mode::kFo:
      return "fo";
    case Mode::kFoStrict:
      return "fo_strict";
  }
  return "unknown";
}

std::optional<Mode> ParseMode(std::string_view name) {
  for (const Mode mode : {Mode::kFull, Mode::kFo, Mode::kFoStrict}) {
    if (name == ModeName(mode)) return mode;
  }
  return std::nullopt;
}

absl::StatusOr<Trajectory> Adapt(const AttentionClassifier& model, const Episode& support,
                                 const InnerLoop& inner, const Vector& parameters) {
  Trajectory trajectory = {parameters};
  for (int t = 0; t < inner.steps; ++t) {
    const auto step = model.Gradient(trajectory.back(), support);
    if (!step.ok()) return step.status();
    trajectory.push_back(trajectory.back() - inner.learning_rate * step->gradient);
  }
  return trajectory;
}

absl::StatusOr<Vector> PullBack(const AttentionClassifier& model, const Episode& support,
                                const InnerLoop& inner, const Trajectory& trajectory,
                                Vector cotangent) {
  for (int t = inner.steps - 1; t >= 0; --t) {
    const auto curvature = model.HessianVector(trajectory[t], support, cotangent);
    if (!curvature.ok()) return curvature.status();
    cotangent -= inner.learning_rate * *curvature;
  }
  return cotangent;
}

absl::StatusOr<MetaGradient> ComputeMetaGradient(const AttentionClassifier& model, const Task& task,
                                                 const InnerLoop& inner, Mode mode,
                                                 const Vector& parameters) {
  const auto before = model.Evaluate(parameters, task.query);
  if (!before.ok()) return before.status();
  auto adapted = AdaptAndJudge(model, task, inner, parameters);
  if (!adapted.ok()) return adapted.status();
  MetaGradient result{*before, adapted->query.fit, std::move(adapted->query.gradient)};
  if (mode == Mode::kFull) {
    auto full =
        PullBack(model, task.support, inner, adapted->trajectory, std::move(result.gradient));
    if (!full.ok()) return full.status();
    result.gradient = *std::move(full);
  }
  return result;
}

absl::StatusOr<Diagnostics> Diagnose(const AttentionClassifier& model, const Task& task,
                                     const InnerLoop& inner, Mode mode, const Vector& parameters) {
  auto adapted = AdaptAndJudge(model, task, inner, parameters);
  if (!adapted.ok()) return adapted.status();
  const Vector& first_order = adapted->query.gradient;
  auto full = PullBack(model, task.support, inner, adapted->trajectory, first_order);
  if (!full.ok()) return full.status();

  Diagnostics result{.full = *std::move(full), .first_order = first_order};
  result.rel_diff = (result.full - first_order).norm() / result.full.norm();
  if (mode == Mode::kFoStrict) return result;

  auto probe = model.HessianVector(adapted->trajectory.back(), task.query, first_order);
  if (probe.ok() && mode == Mode::kFull) {
    probe = PullBack(model, task.support, inner, adapted->trajectory, *std::move(probe));
  }
  if (!probe.ok()) return probe.status();
  result.probe_norm = probe->norm();
  result.second_order_path = result.probe_norm > kProbeTolerance * first_order.norm();
  return result;
}

}  // namespace theria::maml
