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

// The row of that name, or null.
template <typename Row, std::size_t kRows>
const Row* Find(const Row (&table)[kRows], std::string_view name) {
  const Row* const found =
      std::find_if(table, table + kRows, [&](const Row& row) { return row.name == name; });
  return found == table + kRows ? nullptr : found;
}

IndexVector Indices(const std::optional<TensorView>& vector) {
  if (!vector.has_value()) return {};
  return {vector->data, vector->strides[0]};
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

bool HasInput(Operation operation, std::string_view input) {
  const InputField* const field = Find(kInputFields, input);
  return field != nullptr && Contains(field->operations, operation);
}

bool HasOutput(Operation operation, std::string_view output) {
  const OutputField* const field = Find(kOutputFields, output);
  return field != nullptr && Contains(field->operations, operation);
}

bool HasOutput(const AttentionProblem& problem, std::string_view output) {
  return HasOutput(problem.operation, output) && (problem.bias.has_value() || !IsOfBias(output));
}

absl::Status CheckHasOutput(const AttentionProblem& problem, std::string_view output,
                            std::string_view field) {
  if (HasOutput(problem, output)) return absl::OkStatus();
  if (!HasOutput(problem.operation, output)) {
    return InvalidField(field, Message("is given, must be absent: it is no output of ",
                                       OperationName(problem.operation)));
  }
  return InvalidField(
      field, "is given, must be absent: only a floating-point options.mask has a derivative");
}

bool IsOfBias(std::string_view output) {
  const OutputField* const field = Find(kOutputFields, output);
  return field != nullptr && field->like == Like::kBias;
}

MutableTensorView OutputLayout(const AttentionProblem& p, std::string_view output) {
  const OutputField* const field = Find(kOutputFields, output);
  switch (field == nullptr ? Like::kO : field->like) {
    case Like::kQ:
      return Layout(p.dtype, {p.batch, p.heads_q, p.seq_q, p.head_dim});
    case Like::kK:
      return Layout(p.dtype, {p.batch, p.heads_kv, p.seq_kv, p.head_dim});
    case Like::kV:
      return Layout(p.dtype, {p.batch, p.heads_kv, p.seq_kv, p.head_dim_v});
    case Like::kO:
      return Layout(p.dtype, {p.batch, p.heads_q, p.seq_q, p.head_dim_v});
    case Like::kLse:
      return Layout(StatisticsDType(p.dtype), {p.batch, p.heads_q, p.seq_q});
    case Like::kBias:
      return p.bias.value_or(MutableTensorView{});
  }
  return {};
}

ScoreMod MakeScoreMod(const AttentionProblem& problem, const AttentionOptions& options) {
  ScoreMod mod;
  mod.seq_q = problem.seq_q;
  mod.seq_kv = problem.seq_kv;
  if (options.window.has_value()) {
    mod.window_left = std::min(options.window->left.value_or(mod.kUnbounded), mod.kUnbounded);
    mod.window_right = std::min(options.window->right.value_or(mod.kUnbounded), mod.kUnbounded);
  }
  if (options.is_causal) mod.window_right = 0;
  mod.lower_right = options.causal_alignment == CausalAlignment::kLowerRight;
  mod.kv_lengths = Indices(options.kv_lengths);
  mod.cu_seqlens_q = Indices(options.cu_seqlens_q);
  mod.cu_seqlens_kv = Indices(options.cu_seqlens_kv);
  if (options.cu_seqlens_q.has_value()) mod.documents = options.cu_seqlens_q->shape[0] - 1;
  mod.softcap.cap = options.softcap.value_or(0.0);
  if (options.alibi_slopes.has_value()) {
    const TensorView& slopes = *options.alibi_slopes;
    mod.alibi_slopes = slopes.data;
    mod.alibi_dtype = slopes.dtype;
    mod.alibi_strides[0] = slopes.rank == 2 ? slopes.strides[0] : 0;
    mod.alibi_strides[1] = slopes.strides[slopes.rank - 1];
  }
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
