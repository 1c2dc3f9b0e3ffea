#include "client/cli/parity/parity.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/str_format.h"
#include "client/cli/parity/explicit_attention.h"
#include "theria/error_details.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::AttentionResult;
using client::DType;
using client::Implementation;
using client::KernelSupport;
using client::Operation;

constexpr Implementation kImplementations[] = {Implementation::kReference, Implementation::kUnfused,
                                               Implementation::kFused};
constexpr DType kDTypes[] = {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16};
constexpr Operation kOperations[] = {Operation::kForward, Operation::kVjp, Operation::kJvp,
                                     Operation::kHvp};
constexpr client::CallOptions kCall = {.timeout = absl::Seconds(120)};

bool Offers(const client::ServerInfo& info, Implementation implementation) {
  return std::any_of(info.kernels.begin(), info.kernels.end(), [&](const KernelSupport& kernel) {
    return kernel.implementation == implementation;
  });
}

// The operations that a case calls on the target.
std::vector<Operation> Calls(const ParityCase& what) {
  std::vector<Operation> calls = {what.operation};
  if (what.problem.saved) calls.push_back(Operation::kForward);
  if (what.identity == Identity::kAdjoint || what.identity == Identity::kFiniteDifferences) {
    calls.push_back(Operation::kVjp);
  }
  return calls;
}

// Why the target's listing excludes the case, or none.
std::string ReasonToSkip(const ParityCase& what, const client::ServerInfo& info) {
  for (const Operation operation : Calls(what)) {
    const bool covered =
        std::any_of(info.kernels.begin(), info.kernels.end(), [&](const KernelSupport& kernel) {
          return kernel.implementation == what.implementation && kernel.operation == operation &&
                 kernel.dtype == what.dtype && kernel.Covers(what.problem.head_dim) &&
                 kernel.Covers(what.problem.head_dim_v);
        });
    if (!covered) {
      return absl::StrFormat("%s with head dimensions %d and %d is not listed",
                             std::string(client::OperationName(operation)), what.problem.head_dim,
                             what.problem.head_dim_v);
    }
  }
  return "";
}

bool EndsTheRun(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         client::DetailsOf(status).retry_delay.has_value();
}

// Gives the request the o and lse that the target itself computes.
absl::Status AddSaved(client::Attention& target, const ParityCase& what,
                      AttentionRequest& request) {
  AttentionRequest forward = MakeRequest(what.problem, Operation::kForward, what.dtype);
  forward.options.implementation = what.implementation;
  absl::StatusOr<AttentionResult> result = target.Forward(forward, kCall);
  if (!result.ok()) return result.status();
  request.o = std::move(result->o);
  request.lse = std::move(result->lse);
  return absl::OkStatus();
}

class Runner {
 public:
  Runner(client::Attention& target, const client::ServerInfo& info, client::Attention* reference)
      : target_(target), info_(info), reference_(reference) {}

  absl::StatusOr<ParityResult> Run(const ParityCase& what) {
    ParityResult result{.what = what};
    result.reason = ReasonToSkip(what, info_);
    if (!result.reason.empty()) {
      result.outcome = Outcome::kSkipped;
      return result;
    }
    const absl::Status status = what.identity.has_value() ? Check(result) : Compare(result);
    if (!status.ok()) return status;
    for (const Comparison& comparison : result.comparisons) {
      if (comparison.Held()) continue;
      result.outcome = Outcome::kFailed;
      if (result.reason.empty()) result.reason = comparison.name + " " + Describe(comparison);
    }
    return result;
  }

 private:
  static std::string Describe(const Comparison& comparison) {
    if (!comparison.violation.empty()) return comparison.violation;
    return absl::StrFormat("is off by %.3g in norm (may by %.3g), by %.3g at most (may by %.3g)",
                           comparison.norm_error, comparison.tolerance.norm, comparison.max_error,
                           comparison.tolerance.max);
  }

  // What an error of the target means: the end of the run, or the failure of the case.
  static absl::Status TargetError(const absl::Status& status, ParityResult& result) {
    if (EndsTheRun(status)) return status;
    result.outcome = Outcome::kFailed;
    result.reason = status.ToString(absl::StatusToStringMode::kWithNoExtraData);
    return absl::OkStatus();
  }

  absl::Status Check(ParityResult& result) {
    const ParityCase& what = result.what;
    absl::StatusOr<std::vector<Comparison>> comparisons = CheckIdentity(
        target_, *what.identity, what.problem, what.dtype, what.implementation, kCall);
    if (!comparisons.ok()) return TargetError(comparisons.status(), result);
    result.comparisons = *std::move(comparisons);
    return absl::OkStatus();
  }

  absl::Status Compare(ParityResult& result) {
    const ParityCase& what = result.what;
    AttentionRequest request = MakeRequest(what.problem, what.operation, what.dtype);
    const absl::Status expected = UpdateExpectation(what, request);
    if (!expected.ok()) return expected;

    request.options.implementation = what.implementation;
    if (what.problem.saved) {
      const absl::Status saved = AddSaved(target_, what, request);
      if (!saved.ok()) return TargetError(saved, result);
    }
    const absl::StatusOr<AttentionResult> actual = target_.Run(what.operation, request, kCall);
    if (!actual.ok()) return TargetError(actual.status(), result);
    result.execution = actual->execution;
    result.comparisons =
        CompareResults(*actual, expected_, what.problem, what.dtype,
                       ToleranceOf(what.operation, what.dtype, what.problem.options.precision));
    if (!what.problem.options.deterministic) return absl::OkStatus();
    const absl::StatusOr<AttentionResult> again = target_.Run(what.operation, request, kCall);
    if (!again.ok()) return TargetError(again.status(), result);
    RequireSameBits(*actual, *again, result.comparisons);
    return absl::OkStatus();
  }

  // Implementations of one problem are compared with the same expectation.
  absl::Status UpdateExpectation(const ParityCase& what, const AttentionRequest& request) {
    ParityCase key = what;
    key.implementation = Implementation::kAuto;
    if (key.Name() == expected_key_) return absl::OkStatus();
    Expectation expected;
    if (reference_ == nullptr) {
      expected.exact = ExactAttention(what.operation, request);
    } else {
      AttentionRequest widened = Widened(request);
      widened.options.precision = client::Precision::kStrict;
      absl::StatusOr<AttentionResult> exact = reference_->Run(what.operation, widened, kCall);
      if (!exact.ok()) return exact.status();
      expected.exact = *std::move(exact);
    }
    if (what.problem.IsIllConditioned()) {
      for (const SumOrder order : kSumOrders) {
        expected.same_dtype.push_back(SameDTypeAttention(what.operation, request, order));
      }
    }
    expected_ = std::move(expected);
    expected_key_ = key.Name();
    return absl::OkStatus();
  }

  client::Attention& target_;
  const client::ServerInfo& info_;
  client::Attention* const reference_;  // none: explicit attention
  Expectation expected_;
  std::string expected_key_;
};

}  // namespace

std::string ParityCase::Name() const {
  std::string name = absl::StrFormat(
      "%s %s %s ", std::string(client::ImplementationName(implementation)),
      std::string(client::DTypeName(dtype)), std::string(client::OperationName(operation)));
  if (identity.has_value()) name += std::string(IdentityName(*identity)) + " ";
  name += problem.option_class + " " + problem.Sizes();
  if (problem.only_q_tangent) name += " q_dot only";
  if (problem.only_v_tangent) name += " v_dot only";
  if (!problem.variant.empty()) name += " " + problem.variant;
  return name;
}

double ParityResult::Ratio() const {
  double ratio = 0.0;
  for (const Comparison& comparison : comparisons) ratio = std::max(ratio, comparison.Ratio());
  return ratio;
}

std::vector<ParityCase> PlanParity(Suite suite, const client::ServerInfo& target) {
  std::vector<ParityCase> cases;
  const auto add_implementations = [&](ParityCase what) {
    for (const Implementation implementation : kImplementations) {
      // The reference computes in float64 whatever the precision asked for.
      const bool ignores = what.problem.options.precision == client::Precision::kFast &&
                           implementation == Implementation::kReference;
      if (!Offers(target, implementation) || ignores) continue;
      what.implementation = implementation;
      cases.push_back(what);
    }
  };
  for (const Problem& problem : Problems(suite)) {
    for (const DType dtype : kDTypes) {
      for (const Operation operation : kOperations) {
        if (!Applies(problem, operation, dtype)) continue;
        add_implementations({.problem = problem, .dtype = dtype, .operation = operation});
      }
      if (!problem.identities) continue;
      for (const Identity identity :
           {Identity::kAdjoint, Identity::kSymmetry, Identity::kFiniteDifferences}) {
        if (identity == Identity::kFiniteDifferences && dtype != DType::kFloat64) continue;
        add_implementations({.problem = problem,
                             .dtype = dtype,
                             .operation = TestedOperation(identity),
                             .identity = identity});
      }
    }
  }
  return cases;
}

absl::StatusOr<std::vector<ParityResult>> RunParity(
    client::Attention& target, const client::ServerInfo& target_info, client::Attention* reference,
    const std::vector<ParityCase>& cases,
    const std::function<void(const ParityResult&)>& progress) {
  Runner runner(target, target_info, reference);
  std::vector<ParityResult> results;
  for (const ParityCase& what : cases) {
    absl::StatusOr<ParityResult> result = runner.Run(what);
    if (!result.ok()) return result.status();
    progress(*result);
    results.push_back(*std::move(result));
  }
  return results;
}

}  // namespace theria::cli
