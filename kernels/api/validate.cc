#include <algorithm>
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

bool IsKnown(DType dtype) { return dtype <= DType::kInt32; }

// Sizes that fit and make sense by themselves: no overflow here means none later, wherever extents
// are multiplied or strides added up. An extent of 0 counts as 1, so that the others stay sensible.
absl::Status CheckLayout(std::string_view name, const TensorView& view) {
  std::int64_t size_bytes = static_cast<std::int64_t>(sizeof(double));
  std::int64_t span_bytes = static_cast<std::int64_t>(sizeof(double));
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::int64_t extent = view.shape[axis];
    const std::int64_t stride = view.strides[axis];
    const std::int64_t at_least_one = std::max<std::int64_t>(extent, 1);
    if (extent < 0) {
      return InvalidField(Indexed(name, "shape", axis),
                          Message("is ", extent, ", must not be negative"));
    }
    if (stride < 0) {
      return InvalidField(Indexed(name, "strides", axis),
                          Message("is ", stride, ", must not be negative"));
    }
    std::int64_t reach_bytes = 0;
    if (__builtin_mul_overflow(size_bytes, at_least_one, &size_bytes)) {
      return InvalidField(Message(name, ".shape"),
                          Message("overflows at shape[", axis, "] = ", extent,
                                  ": the size must be at most ", kMaxBytes, " bytes"));
    }
    if (__builtin_mul_overflow(at_least_one - 1, stride, &reach_bytes) ||
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

bool IsRequired(std::string_view input) { return input == "q" || input == "k" || input == "v"; }

absl::Status CheckPresence(Operation operation, const AttentionInputs& inputs) {
  for (const InputField& field : kInputFields) {
    const bool present = (inputs.*field.member).has_value();
    if (present && !Contains(field.operations, operation)) {
      return InvalidField(field.name, Message("is given, must be absent: it is no input of ",
                                              OperationName(operation)));
    }
    if (!present && IsRequired(field.name)) {
      return InvalidField(field.name,
                          Message("is missing, must be given for ", OperationName(operation)));
    }
  }
  if (HasInput(operation, "o_bar") && !inputs.o_bar.has_value() && !inputs.lse_bar.has_value()) {
    return InvalidField("o_bar", Message("is missing, must be given for ", OperationName(operation),
                                         " unless lse_bar is"));
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
  const bool divides = k.shape[1] == 0 ? q.shape[1] == 0 : q.shape[1] % k.shape[1] == 0;
  if (!divides) {
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
  std::int64_t o_bytes = std::int64_t{1};
  for (int axis = 0; axis < 3; ++axis) o_bytes *= std::max<std::int64_t>(q.shape[axis], 1);
  if (__builtin_mul_overflow(o_bytes, v.shape[3] * std::int64_t{sizeof(double)}, &o_bytes)) {
    return InvalidField("v.shape[3]", Message("is ", v.shape[3], ", the size of o must be at most ",
                                              kMaxBytes, " bytes"));
  }
  return absl::OkStatus();
}

absl::Status CheckStatistic(std::string_view name, const TensorView& view, DType dtype,
                            const std::array<Extent, 4>& like_q) {
  THERIA_RETURN_IF_ERROR(
      CheckDType(name, view.dtype, StatisticsDType(dtype), ", the dtype of statistics for this q"));
  THERIA_RETURN_IF_ERROR(CheckRank(name, view, 3, "[batch, heads_q, seq_q]"));
  THERIA_RETURN_IF_ERROR(CheckLayout(name, view));
  for (int axis = 0; axis < 3; ++axis) {
    THERIA_RETURN_IF_ERROR(CheckExtent(name, view, axis, like_q[axis]));
  }
  return absl::OkStatus();
}

// `mask` is valid where it is present.
absl::Status CheckLikeBias(std::string_view name, const TensorView& view,
                           const std::optional<TensorView>& mask) {
  if (!mask.has_value() || !IsFloatingPoint(mask->dtype)) {
    return InvalidField(
        name, "is given, must be absent: only a floating-point options.mask has a derivative");
  }
  THERIA_RETURN_IF_ERROR(CheckDType(name, view.dtype, mask->dtype, ", the dtype of options.mask"));
  THERIA_RETURN_IF_ERROR(CheckRank(name, view, mask->rank, "the shape of options.mask"));
  THERIA_RETURN_IF_ERROR(CheckLayout(name, view));
  for (int axis = 0; axis < view.rank; ++axis) {
    const std::string origin = Indexed("options.mask", "shape", axis);
    THERIA_RETURN_IF_ERROR(CheckExtent(name, view, axis, {mask->shape[axis], origin}));
  }
  return absl::OkStatus();
}

// All inputs beside q, k and v, which are valid, as the options are.
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

  const auto check = [&](const InputField& field, const TensorView& view) {
    switch (field.like) {
      case Like::kQ:
        return CheckLike(field.name, view, q.dtype, like_q);
      case Like::kK:
        return CheckLike(field.name, view, q.dtype, like_k);
      case Like::kV:
        return CheckLike(field.name, view, q.dtype, like_v);
      case Like::kO:
        return CheckLike(field.name, view, q.dtype, like_o);
      case Like::kLse:
        return CheckStatistic(field.name, view, q.dtype, like_q);
      case Like::kBias:
        return CheckLikeBias(field.name, view, inputs.options.mask);
    }
    return absl::OkStatus();
  };
  for (const InputField& field : kInputFields) {
    const std::optional<TensorView>& view = inputs.*field.member;
    if (view.has_value()) THERIA_RETURN_IF_ERROR(check(field, *view));
  }
  return absl::OkStatus();
}

absl::Status CheckMask(const TensorView& mask, const TensorView& q, const TensorView& k) {
  if (mask.dtype != DType::kBool && !IsFloatingPoint(mask.dtype)) {
    return InvalidField("options.mask.dtype",
                        Message("is ", DTypeName(mask.dtype),
                                ", must be bool, float64, float32, float16 or bfloat16"));
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

absl::Status CheckAlibiSlopes(const TensorView& slopes, const TensorView& q) {
  constexpr std::string_view kName = "options.alibi_slopes";
  if (!IsFloatingPoint(slopes.dtype)) {
    return InvalidField(
        Message(kName, ".dtype"),
        Message("is ", DTypeName(slopes.dtype), ", must be float64, float32, float16 or bfloat16"));
  }
  if (slopes.rank != 1 && slopes.rank != 2) {
    return InvalidField(Message(kName, ".shape"),
                        Message("has ", slopes.rank,
                                " dimensions, must have 1 or 2: [heads_q] or [batch, heads_q]"));
  }
  THERIA_RETURN_IF_ERROR(CheckLayout(kName, slopes));
  if (slopes.rank == 2) {
    THERIA_RETURN_IF_ERROR(CheckExtent(kName, slopes, 0, {q.shape[0], "q.shape[0]"}));
  }
  return CheckExtent(kName, slopes, slopes.rank - 1, {q.shape[1], "q.shape[1]"});
}

absl::Status CheckIndices(std::string_view name, const TensorView& view,
                          std::string_view dimensions) {
  THERIA_RETURN_IF_ERROR(CheckDType(name, view.dtype, DType::kInt32, ""));
  THERIA_RETURN_IF_ERROR(CheckRank(name, view, 1, dimensions));
  return CheckLayout(name, view);
}

absl::Status CheckDocuments(const AttentionOptions& options, const TensorView& q) {
  const std::optional<TensorView>& of_q = options.cu_seqlens_q;
  const std::optional<TensorView>& of_kv = options.cu_seqlens_kv;
  if (of_q.has_value() != of_kv.has_value()) {
    return InvalidField(of_q.has_value() ? "options.cu_seqlens_kv" : "options.cu_seqlens_q",
                        Message("is missing, must be given together with options.",
                                of_q.has_value() ? "cu_seqlens_q" : "cu_seqlens_kv"));
  }
  if (!of_q.has_value()) return absl::OkStatus();
  constexpr std::string_view kDimensions = "[documents + 1]";
  THERIA_RETURN_IF_ERROR(CheckIndices("options.cu_seqlens_q", *of_q, kDimensions));
  THERIA_RETURN_IF_ERROR(CheckIndices("options.cu_seqlens_kv", *of_kv, kDimensions));
  if (of_q->shape[0] < 1) {
    return InvalidField("options.cu_seqlens_q.shape[0]", "is 0, must be at least 1");
  }
  THERIA_RETURN_IF_ERROR(CheckExtent("options.cu_seqlens_kv", *of_kv, 0,
                                     {of_q->shape[0], "options.cu_seqlens_q.shape[0]"}));
  if (options.kv_lengths.has_value()) {
    return InvalidField("options.kv_lengths",
                        "is given, must be absent: options.cu_seqlens_kv sets the lengths");
  }
  if (q.shape[0] != 1) {
    return InvalidField("q.shape[0]",
                        Message("is ", q.shape[0], ", must be 1 with options.cu_seqlens_q"));
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
  if (options.causal_alignment > CausalAlignment::kLowerRight) {
    return InvalidField("options.causal_alignment",
                        Message("is ", static_cast<int>(options.causal_alignment),
                                ", must be upper left or lower right"));
  }
  if (options.softcap.has_value() && !(*options.softcap > 0.0 && std::isfinite(*options.softcap))) {
    return InvalidField("options.softcap",
                        Message("is ", *options.softcap, ", must be finite and above 0"));
  }
  if (options.mask.has_value()) THERIA_RETURN_IF_ERROR(CheckMask(*options.mask, q, k));
  if (options.alibi_slopes.has_value()) {
    THERIA_RETURN_IF_ERROR(CheckAlibiSlopes(*options.alibi_slopes, q));
  }
  if (options.kv_lengths.has_value()) {
    THERIA_RETURN_IF_ERROR(CheckIndices("options.kv_lengths", *options.kv_lengths, "[batch]"));
    THERIA_RETURN_IF_ERROR(
        CheckExtent("options.kv_lengths", *options.kv_lengths, 0, {q.shape[0], "q.shape[0]"}));
  }
  THERIA_RETURN_IF_ERROR(CheckDocuments(options, q));
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
  THERIA_RETURN_IF_ERROR(CheckOptions(inputs.options, *inputs.q, *inputs.k));
  THERIA_RETURN_IF_ERROR(CheckRelated(inputs));

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
  const auto terms = static_cast<double>(std::max<std::int64_t>(problem.head_dim, 1));
  problem.scale = inputs.options.scale.value_or(1.0 / std::sqrt(terms));
  if (const auto& mask = inputs.options.mask; mask.has_value() && IsFloatingPoint(mask->dtype)) {
    problem.bias = MutableTensorView{nullptr, mask->dtype, mask->rank, mask->shape, {}};
    problem.bias->SetRowMajor();
  }
  return problem;
}

#undef THERIA_RETURN_IF_ERROR

}  // namespace theria
