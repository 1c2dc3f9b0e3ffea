#include <array>
#include <cmath>
#include <limits>
#include <string>

#include "absl/status/status.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"

namespace theria {
namespace {

#define THERIA_RETURN_IF_ERROR(expression) \
  do {                                     \
    absl::Status status_ = (expression);   \
    if (!status_.ok()) return status_;     \
  } while (false)

constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();

// A dimension that another tensor fixes, and how messages call it.
struct Extent {
  std::int64_t value;
  std::string_view origin;  // "q.shape[0]"
};

std::string Indexed(std::string_view name, std::string_view part, int axis) {
  return Message(name, ".", part, "[", axis, "]");
}

bool IsKnown(DType dtype) { return dtype <= DType::kBool; }

// Sizes that fit and make sense by themselves: no overflow here means none later, wherever extents
// are multiplied or strides added up.
absl::Status CheckLayout(std::string_view name, const TensorView& view) {
  std::int64_t size_bytes = static_cast<std::int64_t>(sizeof(double));
  std::int64_t span_bytes = static_cast<std::int64_t>(sizeof(double));
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::int64_t extent = view.shape[axis];
    const std::int64_t stride = view.strides[axis];
    if (extent < 1) {
      return InvalidField(Indexed(name, "shape", axis),
                          Message("is ", extent, ", must be at least 1"));
    }
    if (stride < 0) {
      return InvalidField(Indexed(name, "strides", axis),
                          Message("is ", stride, ", must not be negative"));
    }
    std::int64_t reach_bytes = 0;
    if (__builtin_mul_overflow(size_bytes, extent, &size_bytes)) {
      return InvalidField(Message(name, ".shape"),
                          Message("overflows at shape[", axis, "] = ", extent,
                                  ": the size must be at most ", kMaxBytes, " bytes"));
    }
    if (__builtin_mul_overflow(extent - 1, stride, &reach_bytes) ||
        __builtin_mul_overflow(reach_bytes, std::int64_t{sizeof(double)}, &reach_bytes) ||
        __builtin_add_overflow(span_bytes, reach_bytes, &span_bytes)) {
      return InvalidField(Message(name, ".strides"),
                          Message("overflows at strides[", axis, "] = ", stride,
                                  ": the span must be at most ", kMaxBytes, " bytes"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckDType(std::string_view name, DType dtype, DType expected, std::string_view why) {
  if (dtype == expected) return absl::OkStatus();
  return InvalidField(Message(name, ".dtype"),
                      Message("is ", DTypeName(dtype), ", must be ", DTypeName(expected), why));
}

absl::Status CheckRank(std::string_view name, const TensorView& view, int rank,
                       std::string_view dimensions) {
  if (view.rank == rank) return absl::OkStatus();
  return InvalidField(Message(name, ".shape"), Message("has ", view.rank, " dimensions, must have ",
                                                       rank, ": ", dimensions));
}

absl::Status CheckExtent(std::string_view name, const TensorView& view, int axis, Extent expected) {
  if (view.shape[axis] == expected.value) return absl::OkStatus();
  return InvalidField(
      Indexed(name, "shape", axis),
      Message("is ", view.shape[axis], ", must equal ", expected.origin, " = ", expected.value));
}

absl::Status CheckHeadDim(std::string_view name, const TensorView& view) {
  if (view.shape[3] <= kMaxHeadDim) return absl::OkStatus();
  return InvalidField(Indexed(name, "shape", 3),
                      Message("is ", view.shape[3], ", must be at most ", kMaxHeadDim));
}

// A tensor with the layout of q, k, v or o, given by its four extents.
absl::Status CheckLike(std::string_view name, const TensorView& view, DType dtype,
                       const std::array<Extent, 4>& extents) {
  THERIA_RETURN_IF_ERROR(CheckDType(name, view.dtype, dtype, ", the dtype of q"));
  THERIA_RETURN_IF_ERROR(CheckRank(name, view, 4, "[batch, heads, seq, head_dim]"));
  THERIA_RETURN_IF_ERROR(CheckLayout(name, view));
  for (int axis = 0; axis < 4; ++axis) {
    THERIA_RETURN_IF_ERROR(CheckExtent(name, view, axis, extents[axis]));
  }
  return absl::OkStatus();
}

// Which inputs an operation requires, accepts and has no use for.
enum class Use { kRequired, kOptional, kNone };

Use UseOf(Operation operation, std::string_view input) {
  const bool has_cotangent = operation == Operation::kVjp || operation == Operation::kHvp;
  const bool has_tangents = operation == Operation::kJvp || operation == Operation::kHvp;
  if (input == "q" || input == "k" || input == "v") return Use::kRequired;
  if (input == "o" || input == "lse") {
    return operation == Operation::kForward ? Use::kNone : Use::kOptional;
  }
  if (input == "o_bar") return has_cotangent ? Use::kRequired : Use::kNone;
  if (input == "o_bar_dot") return operation == Operation::kHvp ? Use::kOptional : Use::kNone;
  return has_tangents ? Use::kOptional : Use::kNone;
}

absl::Status CheckPresence(Operation operation, const AttentionInputs& inputs) {
  for (const InputField& field : kInputFields) {
    const bool present = (inputs.*field.member).has_value();
    switch (UseOf(operation, field.name)) {
      case Use::kRequired:
        if (!present) {
          return InvalidField(field.name,
                              Message("is missing, must be given for ", OperationName(operation)));
        }
        break;
      case Use::kOptional:
        break;
      case Use::kNone:
        if (present) {
          return InvalidField(field.name, Message("is given, must be absent: it is no input of ",
                                                  OperationName(operation)));
        }
    }
  }
  if (inputs.o.has_value() != inputs.lse.has_value()) {
    return InvalidField(
        inputs.o.has_value() ? "lse" : "o",
        Message("is missing, must be given together with ", inputs.o.has_value() ? "o" : "lse"));
  }
  return absl::OkStatus();
}

// q, k and v fix the sizes of the problem.
absl::Status CheckPrimals(const TensorView& q, const TensorView& k, const TensorView& v) {
  if (!IsKnown(q.dtype) || !IsFloatingPoint(q.dtype)) {
    return InvalidField("q.dtype", Message("is ", DTypeName(q.dtype),
                                           ", must be float64, float32, float16 or bfloat16"));
  }
  THERIA_RETURN_IF_ERROR(CheckRank("q", q, 4, "[batch, heads_q, seq_q, head_dim]"));
  THERIA_RETURN_IF_ERROR(CheckLayout("q", q));
  THERIA_RETURN_IF_ERROR(CheckHeadDim("q", q));

  THERIA_RETURN_IF_ERROR(CheckDType("k", k.dtype, q.dtype, ", the dtype of q"));
  THERIA_RETURN_IF_ERROR(CheckRank("k", k, 4, "[batch, heads_kv, seq_kv, head_dim]"));
  THERIA_RETURN_IF_ERROR(CheckLayout("k", k));
  THERIA_RETURN_IF_ERROR(CheckExtent("k", k, 0, {q.shape[0], "q.shape[0]"}));
  if (q.shape[1] % k.shape[1] != 0) {
    return InvalidField("k.shape[1]",
                        Message("is ", k.shape[1], ", must divide q.shape[1] = ", q.shape[1]));
  }
  THERIA_RETURN_IF_ERROR(CheckExtent("k", k, 3, {q.shape[3], "q.shape[3]"}));

  THERIA_RETURN_IF_ERROR(CheckDType("v", v.dtype, q.dtype, ", the dtype of q"));
  THERIA_RETURN_IF_ERROR(CheckRank("v", v, 4, "[batch, heads_kv, seq_kv, head_dim_v]"));
  THERIA_RETURN_IF_ERROR(CheckLayout("v", v));
  THERIA_RETURN_IF_ERROR(CheckExtent("v", v, 0, {q.shape[0], "q.shape[0]"}));
  THERIA_RETURN_IF_ERROR(CheckExtent("v", v, 1, {k.shape[1], "k.shape[1]"}));
  THERIA_RETURN_IF_ERROR(CheckExtent("v", v, 2, {k.shape[2], "k.shape[2]"}));
  THERIA_RETURN_IF_ERROR(CheckHeadDim("v", v));

  // Broadcast inputs may be small while the output or the mask's index space is not.
  std::int64_t scores = q.shape[0] * q.shape[1] * q.shape[2];
  if (__builtin_mul_overflow(scores, k.shape[2], &scores)) {
    return InvalidField("k.shape[2]", Message("is ", k.shape[2],
                                              ", batch * heads_q * seq_q * seq_kv must be at "
                                              "most ",
                                              kMaxBytes));
  }
  std::int64_t o_bytes = q.shape[0] * q.shape[1] * q.shape[2];
  if (__builtin_mul_overflow(o_bytes, v.shape[3] * std::int64_t{sizeof(double)}, &o_bytes)) {
    return InvalidField("v.shape[3]", Message("is ", v.shape[3], ", the size of o must be at most ",
                                              kMaxBytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckRelated(const AttentionInputs& inputs) {
  const TensorView& q = *inputs.q;
  const TensorView& k = *inputs.k;
  const TensorView& v = *inputs.v;
  const std::array<Extent, 4> like_q = {{{q.shape[0], "q.shape[0]"},
                                         {q.shape[1], "q.shape[1]"},
                                         {q.shape[2], "q.shape[2]"},
                                         {q.shape[3], "q.shape[3]"}}};
  const std::array<Extent, 4> like_k = {{{k.shape[0], "k.shape[0]"},
                                         {k.shape[1], "k.shape[1]"},
                                         {k.shape[2], "k.shape[2]"},
                                         {k.shape[3], "k.shape[3]"}}};
  std::array<Extent, 4> like_v = like_k;
  like_v[3] = {v.shape[3], "v.shape[3]"};
  std::array<Extent, 4> like_o = like_q;
  like_o[3] = {v.shape[3], "v.shape[3]"};

  const struct {
    std::string_view name;
    const std::optional<TensorView>& view;
    const std::array<Extent, 4>& extents;
  } related[] = {{"o", inputs.o, like_o},         {"o_bar", inputs.o_bar, like_o},
                 {"q_dot", inputs.q_dot, like_q}, {"k_dot", inputs.k_dot, like_k},
                 {"v_dot", inputs.v_dot, like_v}, {"o_bar_dot", inputs.o_bar_dot, like_o}};
  for (const auto& [name, view, extents] : related) {
    if (view.has_value()) THERIA_RETURN_IF_ERROR(CheckLike(name, *view, q.dtype, extents));
  }
  if (inputs.lse.has_value()) {
    const TensorView& lse = *inputs.lse;
    THERIA_RETURN_IF_ERROR(CheckDType("lse", lse.dtype, StatisticsDType(q.dtype),
                                      ", the dtype of statistics for this q"));
    THERIA_RETURN_IF_ERROR(CheckRank("lse", lse, 3, "[batch, heads_q, seq_q]"));
    THERIA_RETURN_IF_ERROR(CheckLayout("lse", lse));
    for (int axis = 0; axis < 3; ++axis) {
      THERIA_RETURN_IF_ERROR(CheckExtent("lse", lse, axis, like_q[axis]));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMask(const TensorView& mask, const TensorView& q, const TensorView& k) {
  if (!IsKnown(mask.dtype)) {
    return InvalidField("options.mask.dtype",
                        "is unknown, must be bool, float64, float32, float16 or bfloat16");
  }
  if (mask.rank < 0 || mask.rank > kMaxRank) {
    return InvalidField("options.mask.shape",
                        Message("has ", mask.rank, " dimensions, must have at most 4"));
  }
  THERIA_RETURN_IF_ERROR(CheckLayout("options.mask", mask));
  const Extent full[kMaxRank] = {{q.shape[0], "q.shape[0]"},
                                 {q.shape[1], "q.shape[1]"},
                                 {q.shape[2], "q.shape[2]"},
                                 {k.shape[2], "k.shape[2]"}};
  for (int axis = 0; axis < mask.rank; ++axis) {
    const Extent& expected = full[kMaxRank - mask.rank + axis];
    if (mask.shape[axis] != 1 && mask.shape[axis] != expected.value) {
      return InvalidField(Indexed("options.mask", "shape", axis),
                          Message("is ", mask.shape[axis], ", must be 1 or ", expected.origin,
                                  " = ", expected.value));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckWindowSide(std::string_view field, const std::optional<std::int64_t>& side) {
  if (!side.has_value() || *side >= 0) return absl::OkStatus();
  return InvalidField(field, Message("is ", *side, ", must not be negative"));
}

absl::Status CheckOptions(const AttentionOptions& options, const TensorView& q,
                          const TensorView& k) {
  if (options.scale.has_value() && !std::isfinite(*options.scale)) {
    return InvalidField("options.scale", Message("is ", *options.scale, ", must be finite"));
  }
  if (options.window.has_value()) {
    THERIA_RETURN_IF_ERROR(CheckWindowSide("options.window.left", options.window->left));
    THERIA_RETURN_IF_ERROR(CheckWindowSide("options.window.right", options.window->right));
  }
  if (options.mask.has_value()) THERIA_RETURN_IF_ERROR(CheckMask(*options.mask, q, k));
  const double probability = options.dropout.probability;
  if (!(probability >= 0.0 && probability < 1.0)) {
    return InvalidField("options.dropout.probability",
                        Message("is ", probability, ", must be at least 0 and below 1"));
  }
  if (options.precision > Precision::kFast) {
    return InvalidField("options.precision", Message("is ", static_cast<int>(options.precision),
                                                     ", must be strict or fast"));
  }
  if (options.implementation > Implementation::kReference) {
    return InvalidField("options.implementation",
                        Message("is ", static_cast<int>(options.implementation),
                                ", must be auto, fused, unfused or reference"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<AttentionProblem> Validate(Operation operation, const AttentionInputs& inputs) {
  if (operation > Operation::kHvp) {
    return InvalidField("operation", Message("is ", static_cast<int>(operation),
                                             ", must be forward, vjp, jvp or hvp"));
  }
  THERIA_RETURN_IF_ERROR(CheckPresence(operation, inputs));
  THERIA_RETURN_IF_ERROR(CheckPrimals(*inputs.q, *inputs.k, *inputs.v));
  THERIA_RETURN_IF_ERROR(CheckRelated(inputs));
  THERIA_RETURN_IF_ERROR(CheckOptions(inputs.options, *inputs.q, *inputs.k));

  AttentionProblem problem;
  problem.operation = operation;
  problem.dtype = inputs.q->dtype;
  problem.batch = inputs.q->shape[0];
  problem.heads_q = inputs.q->shape[1];
  problem.heads_kv = inputs.k->shape[1];
  problem.seq_q = inputs.q->shape[2];
  problem.seq_kv = inputs.k->shape[2];
  problem.head_dim = inputs.q->shape[3];
  problem.head_dim_v = inputs.v->shape[3];
  problem.scale =
      inputs.options.scale.value_or(1.0 / std::sqrt(static_cast<double>(problem.head_dim)));
  return problem;
}

#undef THERIA_RETURN_IF_ERROR

}  // namespace theria
