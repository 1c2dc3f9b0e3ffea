#include "client/cli/maml_experiment.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "theria/maml_dense_attention.h"

namespace theria::cli {
namespace {

constexpr client::Operation kOperations[] = {client::Operation::kForward, client::Operation::kVjp,
                                             client::Operation::kJvp, client::Operation::kHvp};

double RelativeError(const maml::Vector& actual, const maml::Vector& expected) {
  return (actual - expected).norm() / expected.norm();
}

maml::AttentionClassifier MakeModel(const MamlConfig& config, maml::AttentionOps& ops) {
  return {config.task.d_model, config.task.classes, ops};
}

absl::StatusOr<MamlCheck> Check(const MamlConfig& config, maml::RemoteAttention& remote,
                                const maml::Vector& parameters) {
  const maml::Task task = maml::MakeTask(config.task, config.seed, 0);
  auto server =
      maml::Diagnose(MakeModel(config, remote), task, config.inner, config.mode, parameters);
  if (!server.ok()) return server.status();
  maml::DenseAttention dense;
  auto here = maml::Diagnose(MakeModel(config, dense), task, config.inner, config.mode, parameters);
  if (!here.ok()) return here.status();
  MamlCheck check{.server = *std::move(server), .here = *std::move(here)};
  check.error = std::max(RelativeError(check.server.full, check.here.full),
                         RelativeError(check.server.first_order, check.here.first_order));
  check.error_limit = MetaGradientTolerance(config.attention.dtype);
  check.expected_second_order_path = config.mode != maml::Mode::kFoStrict;
  return check;
}

}  // namespace

bool MamlCheck::held() const {
  return error <= error_limit && server.second_order_path == expected_second_order_path;
}

int MamlProgressSteps(const MamlConfig& config) {
  return 1 + config.outer.steps * config.outer.meta_batch;
}

double MetaGradientTolerance(client::DType dtype) {
  switch (dtype) {
    case client::DType::kFloat64:
      return 1e-9;
    case client::DType::kFloat32:
      return 1e-5;
    case client::DType::kFloat16:
      return 4e-3;
    case client::DType::kBFloat16:
      return 3e-2;
    case client::DType::kBool:
      break;
  }
  return 0.0;
}

absl::StatusOr<MamlReport> RunMaml(const MamlConfig& config, client::Attention& attention,
                                   const std::function<void(const std::string& note)>& progress) {
  const maml::Vector parameters = maml::MakeParameters(config.task, config.seed);
  maml::RemoteAttention check_attention(attention, config.attention);
  auto check = Check(config, check_attention, parameters);
  if (!check.ok()) return check.status();
  progress("check");

  MamlReport report{.check = *std::move(check), .check_calls = check_attention.total()};
  maml::RemoteAttention remote(attention, config.attention);
  const absl::Time start = absl::Now();
  const auto trained = maml::MetaTrain(
      MakeModel(config, remote), config.task, config.seed, config.inner, config.outer, config.mode,
      parameters,
      {.on_task = [&](int done, int all) { progress(absl::StrCat("task ", done, " of ", all)); },
       .on_step = [&](const maml::OuterStep& step) { report.steps.push_back(step); }});
  if (!trained.ok()) return trained.status();
  report.wall_time = absl::Now() - start;
  for (const client::Operation operation : kOperations) {
    report.calls[static_cast<std::size_t>(operation)] = remote.statistics(operation);
  }
  return report;
}

}  // namespace theria::cli
