#include "client/cli/parity/identities.h"

#include <cmath>
#include <string>
#include <utility>

namespace theria::cli {
namespace {

using client::AnyTensor;
using client::AttentionRequest;
using client::AttentionResult;
using client::DType;
using client::Operation;
using client::Tensor;

// The two sums that an inner product of lists of tensors and its error bound need.
struct InnerProduct {
  double value = 0.0;
  double norms = 0.0;  // sum of |a| |b| over the pairs of tensors

  // A pair of which one is absent counts as zero.
  void Add(const AnyTensor& a, const AnyTensor& b) {
    if (!a.has_value() || !b.has_value()) return;
    const std::vector<double> x = a.local().ToDoubles();
    const std::vector<double> y = b.local().ToDoubles();
    double x_squares = 0.0;
    double y_squares = 0.0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      value += x[i] * y[i];
      x_squares += x[i] * x[i];
      y_squares += y[i] * y[i];
    }
    norms += std::sqrt(x_squares) * std::sqrt(y_squares);
  }
};

Comparison CompareProducts(Identity identity, const InnerProduct& left, const InnerProduct& right,
                           const Tolerance& tolerance) {
  Comparison comparison{.name = std::string(IdentityName(identity)), .tolerance = tolerance};
  const double norms = left.norms + right.norms;  // 0 of empty tensors
  const double error = norms == 0.0 ? 0.0 : std::fabs(left.value - right.value) / norms;
  if (!std::isfinite(error)) comparison.violation = "is not finite";
  comparison.norm_error = error;
  comparison.max_error = error;
  return comparison;
}

// base + step * direction, element by element; an absent base or direction is zero.
AnyTensor Displaced(const AnyTensor& base, const AnyTensor& direction, double step) {
  if (!base.has_value() || !direction.has_value()) return base;
  std::vector<double> values = base.local().ToDoubles();
  const std::vector<double> slope = direction.local().ToDoubles();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] += step * slope[i];
  return Tensor::FromDoubles(DType::kFloat64, values, base.local().shape());
}

AnyTensor CentralDifference(const AnyTensor& above, const AnyTensor& below, double step) {
  std::vector<double> values = above.local().ToDoubles();
  const std::vector<double> lower = below.local().ToDoubles();
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = (values[i] - lower[i]) / (2 * step);
  return Tensor::FromDoubles(DType::kFloat64, values, above.local().shape());
}

class Checker {
 public:
  Checker(client::Attention& target, const Problem& problem, DType dtype,
          client::Implementation implementation, const client::CallOptions& call)
      : target_(target),
        problem_(problem),
        dtype_(dtype),
        implementation_(implementation),
        call_(call) {}

  absl::StatusOr<std::vector<Comparison>> Adjoint() {
    const AttentionRequest forward_mode = Request(Operation::kJvp, 0);
    const AttentionRequest reverse_mode = Request(Operation::kVjp, 0);
    const absl::StatusOr<AttentionResult> jvp = target_.Jvp(forward_mode, call_);
    if (!jvp.ok()) return jvp.status();
    const absl::StatusOr<AttentionResult> vjp = target_.Vjp(reverse_mode, call_);
    if (!vjp.ok()) return vjp.status();
    InnerProduct left;
    left.Add(reverse_mode.o_bar, jvp->o_dot);
    left.Add(reverse_mode.lse_bar, jvp->lse_dot);
    InnerProduct right;
    right.Add(vjp->q_bar, forward_mode.q_dot);
    right.Add(vjp->k_bar, forward_mode.k_dot);
    right.Add(vjp->v_bar, forward_mode.v_dot);
    right.Add(vjp->bias_bar, forward_mode.bias_dot);
    return std::vector{
        CompareProducts(Identity::kAdjoint, left, right, ToleranceFor(Operation::kJvp))};
  }

  absl::StatusOr<std::vector<Comparison>> Symmetry() {
    AttentionRequest b = Request(Operation::kHvp, 0);
    b.o_bar_dot = {};
    b.lse_bar_dot = {};
    AttentionRequest a = b;
    const AttentionRequest other = Request(Operation::kHvp, 1);
    a.q_dot = other.q_dot;
    a.k_dot = other.k_dot;
    a.v_dot = other.v_dot;
    a.bias_dot = other.bias_dot;
    const absl::StatusOr<AttentionResult> hvp_b = target_.Hvp(b, call_);
    if (!hvp_b.ok()) return hvp_b.status();
    const absl::StatusOr<AttentionResult> hvp_a = target_.Hvp(a, call_);
    if (!hvp_a.ok()) return hvp_a.status();
    InnerProduct left;
    left.Add(a.q_dot, hvp_b->q_bar_dot);
    left.Add(a.k_dot, hvp_b->k_bar_dot);
    left.Add(a.v_dot, hvp_b->v_bar_dot);
    left.Add(a.bias_dot, hvp_b->bias_bar_dot);
    InnerProduct right;
    right.Add(hvp_a->q_bar_dot, b.q_dot);
    right.Add(hvp_a->k_bar_dot, b.k_dot);
    right.Add(hvp_a->v_bar_dot, b.v_dot);
    right.Add(hvp_a->bias_bar_dot, b.bias_dot);
    return std::vector{
        CompareProducts(Identity::kSymmetry, left, right, ToleranceFor(Operation::kHvp))};
  }

  absl::StatusOr<std::vector<Comparison>> FiniteDifferences() {
    const AttentionRequest request = Request(Operation::kHvp, 0);
    const absl::StatusOr<AttentionResult> hvp = target_.Hvp(request, call_);
    if (!hvp.ok()) return hvp.status();
    const absl::StatusOr<AttentionResult> above = DisplacedVjp(request, kDifferenceStep);
    if (!above.ok()) return above.status();
    const absl::StatusOr<AttentionResult> below = DisplacedVjp(request, -kDifferenceStep);
    if (!below.ok()) return below.status();

    std::vector<Comparison> comparisons;
    const auto compare = [&](const char* name, AnyTensor AttentionResult::*derivative,
                             AnyTensor AttentionResult::*gradient) {
      if (!((*hvp).*derivative).has_value()) return;
      const AnyTensor expected =
          CentralDifference((*above).*gradient, (*below).*gradient, kDifferenceStep);
      comparisons.push_back(CompareTensors(name, (*hvp).*derivative, expected.local(),
                                           DType::kFloat64, kDifferenceTolerance));
    };
    compare("q_bar_dot", &AttentionResult::q_bar_dot, &AttentionResult::q_bar);
    compare("k_bar_dot", &AttentionResult::k_bar_dot, &AttentionResult::k_bar);
    compare("v_bar_dot", &AttentionResult::v_bar_dot, &AttentionResult::v_bar);
    compare("bias_bar_dot", &AttentionResult::bias_bar_dot, &AttentionResult::bias_bar);
    return comparisons;
  }

 private:
  AttentionRequest Request(Operation operation, std::uint64_t draw) const {
    AttentionRequest request = MakeRequest(problem_, operation, dtype_, draw);
    request.options.implementation = implementation_;
    return request;
  }

  Tolerance ToleranceFor(Operation operation) const {
    return ToleranceOf(operation, dtype_, problem_.options.precision);
  }

  // The VJP at the point of `hvp`, moved by `step` along its tangents.
  absl::StatusOr<AttentionResult> DisplacedVjp(const AttentionRequest& hvp, double step) {
    AttentionRequest request;
    request.q = Displaced(hvp.q, hvp.q_dot, step);
    request.k = Displaced(hvp.k, hvp.k_dot, step);
    request.v = Displaced(hvp.v, hvp.v_dot, step);
    request.o_bar = Displaced(hvp.o_bar, hvp.o_bar_dot, step);
    request.lse_bar = Displaced(hvp.lse_bar, hvp.lse_bar_dot, step);
    request.options = hvp.options;
    if (hvp.bias_dot.has_value()) {
      request.options.mask = Displaced(hvp.options.mask, hvp.bias_dot, step);
      request.outputs.bias_bar = client::OutputMode::kInline;
    }
    return target_.Vjp(request, call_);
  }

  client::Attention& target_;
  const Problem& problem_;
  const DType dtype_;
  const client::Implementation implementation_;
  const client::CallOptions call_;
};

}  // namespace

std::string_view IdentityName(Identity identity) {
  switch (identity) {
    case Identity::kAdjoint:
      return "adjoint";
    case Identity::kSymmetry:
      return "symmetry";
    case Identity::kFiniteDifferences:
      return "finite differences";
  }
  return "unknown";
}

Operation TestedOperation(Identity identity) {
  return identity == Identity::kAdjoint ? Operation::kJvp : Operation::kHvp;
}

absl::StatusOr<std::vector<Comparison>> CheckIdentity(client::Attention& target, Identity identity,
                                                      const Problem& problem, DType dtype,
                                                      client::Implementation implementation,
                                                      const client::CallOptions& call) {
  Checker checker(target, problem, dtype, implementation, call);
  switch (identity) {
    case Identity::kAdjoint:
      return checker.Adjoint();
    case Identity::kSymmetry:
      return checker.Symmetry();
    case Identity::kFiniteDifferences:
      return checker.FiniteDifferences();
  }
  return absl::InvalidArgumentError("no such identity");
}

}  // namespace theria::cli
