#ifndef THERIA_CLIENT_CLI_PARITY_PARITY_H_
#define THERIA_CLIENT_CLI_PARITY_PARITY_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cli/parity/compare.h"
#include "client/cli/parity/identities.h"
#include "client/cli/parity/problem.h"
#include "client/cli/parity/suite.h"
#include "theria/attention.h"
#include "theria/server_info.h"

// Whether a target computes attention right, to the tolerance of its dtype, for every kernel that
// it lists: against the explicit float64 attention of explicit_attention.h, or another target.

namespace theria::cli {

// One thing to check: the outputs of an operation against the reference, or an identity.
struct ParityCase {
  Problem problem;
  client::DType dtype = client::DType::kFloat32;
  client::Operation operation = client::Operation::kForward;
  client::Implementation implementation = client::Implementation::kReference;
  std::optional<Identity> identity;

  // "fused float32 vjp causal 1x2/2 33x33 d16/16".
  std::string Name() const;
};

enum class Outcome { kHeld, kFailed, kSkipped };

struct ParityResult {
  ParityCase what;
  Outcome outcome = Outcome::kHeld;
  std::string reason;  // of a failure or a skip
  std::vector<Comparison> comparisons;
  client::ExecutionInfo execution;  // of the target's call; empty for an identity

  // The worst error in units of its tolerance.
  double Ratio() const;
};

// All cases of the suite, for each implementation that `target` lists for any problem; those that
// it does not list kernels for are among them and will be skipped. A problem's dtypes and
// implementations are neighbours.
std::vector<ParityCase> PlanParity(Suite suite, const client::ServerInfo& target);

// Runs the cases in order, calling `progress` after each. A call that fails makes its case fail,
// since the target listed the kernel. Without a `reference`, compares with explicit attention.
//
// Errors: UNAVAILABLE and DEADLINE_EXCEEDED of either side, and any error of the reference: then
// there is no comparison.
absl::StatusOr<std::vector<ParityResult>> RunParity(
    client::Attention& target, const client::ServerInfo& target_info, client::Attention* reference,
    const std::vector<ParityCase>& cases, const std::function<void(const ParityResult&)>& progress);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_PARITY_H_
