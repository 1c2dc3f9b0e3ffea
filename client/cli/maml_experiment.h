#ifndef THERIA_CLIENT_CLI_MAML_EXPERIMENT_H_
#define THERIA_CLIENT_CLI_MAML_EXPERIMENT_H_

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "theria/attention.h"
#include "theria/maml_remote_attention.h"
#include "theria/maml_train.h"

// What `theria maml` does between its arguments and its printed table: meta-learning on a server,
// with the server's derivatives held against this process's own in float64. Plain values.

namespace theria::cli {

struct MamlConfig {
  maml::Mode mode = maml::Mode::kFull;
  maml::InnerLoop inner;
  maml::OuterLoop outer;
  maml::TaskSpec task;
  std::uint64_t seed = 0;
  maml::RemoteAttention::Options attention;
};

// The initial parameters on task 0, on the server and here.
struct MamlCheck {
  maml::Diagnostics server;
  maml::Diagnostics here;  // by DenseAttention, exact to rounding

  // The larger of |server - here| / |here| for lambda_0 and for lambda_K.
  double error = 0.0;
  double error_limit = 0.0;  // by dtype: see MetaGradientTolerance
  bool expected_second_order_path = true;

  // Whether the error is within its limit and the path is where it must be.
  bool held() const;
};

struct MamlReport {
  MamlCheck check;
  std::vector<maml::OuterStep> steps;
  std::array<maml::CallStatistics, 4> calls;  // of the outer loop alone, by client::Operation
  maml::CallStatistics check_calls;           // of the check, all operations
  absl::Duration wall_time;                   // of the outer loop
};

// How far a meta-gradient may be from float64, relative. The parameters stay in float64 here; only
// attention's inputs and outputs are rounded, so that the error is a few units of roundoff
// (measured on the reference: 3e-8, 3e-4, 2e-3), for which a server that also sums in float32 gets
// room of an order of magnitude. float64 is the project's bound for exactness.
double MetaGradientTolerance(client::DType dtype);  // 1e-9, 1e-5, 4e-3, 3e-2

// How often RunMaml calls `progress`: after the check and after each task of the outer loop.
int MamlProgressSteps(const MamlConfig& config);

// Errors: those of `attention`; OUT_OF_RANGE if training diverges.
absl::StatusOr<MamlReport> RunMaml(const MamlConfig& config, client::Attention& attention,
                                   const std::function<void(const std::string& note)>& progress);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_MAML_EXPERIMENT_H_
