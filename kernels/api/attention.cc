#include "kernels/api/attention.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "kernels/api/message.h"

namespace theria {
namespace {

// Where an InvalidField status keeps its field.
constexpr char kFieldPayload[] = "theria/invalid-field";

MutableTensorView Layout(DType dtype, std::initializer_list<std::int64_t> shape) {
  return RowMajorView<void>(nullptr, dtype, shape);
}

}  // namespace

std::string_view OperationName(Operation operation) {
  switch (operation) {
    case Operation::kForward:
      return "forward";
    case Operation::kVjp:
      return "vjp";
    case Operation::kJvp:
      return "jvp";
    case Operation::kHvp:
      return "hvp";
  }
  return "unknown";
}

std::string_view ImplementationName(Implementation implementation) {
  switch (implementation) {
    case Implementation::kAuto:
      return "auto";
    case Implementation::kFused:
      return "fused";
    case Implementation::kUnfused:
      return "unfused";
    case Implementation::kReference:
      return "reference";
  }
  return "unknown";
}

std::string_view PrecisionName(Precision precision) {
  switch (precision) {
    case Precision::kStrict:
      return "strict";
    case Precision::kFast:
      return "fast";
  }
  return "unknown";
}

absl::Status InvalidField(std::string_view field, std::string_view message) {
  absl::Status status = absl::InvalidArgumentError(Message(field, " ", message));
  status.SetPayload(kFieldPayload, absl::Cord(std::string(field)));
  return status;
}

std::optional<std::string> FieldOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kFieldPayload);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

bool HasOutput(Operation operation, std::string_view output) {
  const bool known = std::any_of(std::begin(kOutputFields), std::end(kOutputFields),
                                 [&](const OutputField& field) { return field.name == output; });
  const bool is_tangent = output == "o_dot" || output == "lse_dot";
  const bool is_cotangent = output == "q_bar" || output == "k_bar" || output == "v_bar";
  if (!known) return false;
  switch (operation) {
    case Operation::kForward:
      return output == "o" || output == "lse";
    case Operation::kVjp:
      return output == "o" || output == "lse" || is_cotangent;
    case Operation::kJvp:
      return output == "o" || output == "lse" || is_tangent;
    case Operation::kHvp:
      return true;
  }
  return false;
}

MutableTensorView OutputLayout(const AttentionProblem& p, std::string_view output) {
  if (output == "lse" || output == "lse_dot") {
    return Layout(StatisticsDType(p.dtype), {p.batch, p.heads_q, p.seq_q});
  }
  switch (output.front()) {
    case 'q':
      return Layout(p.dtype, {p.batch, p.heads_q, p.seq_q, p.head_dim});
    case 'k':
      return Layout(p.dtype, {p.batch, p.heads_kv, p.seq_kv, p.head_dim});
    case 'v':
      return Layout(p.dtype, {p.batch, p.heads_kv, p.seq_kv, p.head_dim_v});
    default:
      return Layout(p.dtype, {p.batch, p.heads_q, p.seq_q, p.head_dim_v});
  }
}

ScoreMod MakeScoreMod(const AttentionProblem& /*problem*/, const AttentionOptions& options) {
  ScoreMod mod;
  if (options.window.has_value()) {
    mod.window_left = std::min(options.window->left.value_or(mod.kUnbounded), mod.kUnbounded);
    mod.window_right = std::min(options.window->right.value_or(mod.kUnbounded), mod.kUnbounded);
  }
  if (options.is_causal) mod.window_right = 0;
  if (options.mask.has_value()) {
    const TensorView& mask = *options.mask;
    mod.mask = mask.data;
    mod.mask_dtype = mask.dtype;
    for (int axis = 0; axis < mask.rank; ++axis) {
      const bool repeats = mask.shape[axis] == 1;
      mod.mask_strides[kMaxRank - mask.rank + axis] = repeats ? 0 : mask.strides[axis];
    }
  }
  mod.dropout =
      MakeDropoutMod(options.dropout.probability, options.dropout.seed, options.dropout.offset);
  return mod;
}

double AttentionFlops(const AttentionProblem& problem, const AttentionOptions& options) {
  // How many products run over head_dim, and how many over head_dim_v.
  double products = 0;
  double products_v = 0;
  switch (problem.operation) {
    case Operation::kForward:
      products = 1, products_v = 1;
      break;
    case Operation::kVjp:
      products = 3, products_v = 2;
      break;
    case Operation::kJvp:
      products = 3, products_v = 3;
      break;
    case Operation::kHvp:
      products = 12, products_v = 9;
      break;
  }
  const double scores = static_cast<double>(problem.batch) * static_cast<double>(problem.heads_q) *
                        static_cast<double>(problem.seq_q) * static_cast<double>(problem.seq_kv);
  const double flops = 2.0 * scores *
                       (products * static_cast<double>(problem.head_dim) +
                        products_v * static_cast<double>(problem.head_dim_v));
  return options.is_causal ? flops / 2 : flops;
}

}  // namespace theria
