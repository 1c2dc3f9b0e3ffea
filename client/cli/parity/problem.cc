#include "client/cli/parity/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "client/cli/parity/poison.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::DType;
using client::Operation;
using client::Shape;
using client::Tensor;

// Draws the tensors of one request, one after the other.
class Draws {
 public:
  explicit Draws(std::uint64_t seed) : engine_(seed) {}

  std::vector<double> Normal(std::int64_t count) {
    std::vector<double> values(static_cast<std::size_t>(count));
    for (double& value : values) value = normal_(engine_);
    return values;
  }

  // True with the given probability.
  bool Coin(double probability) { return uniform_(engine_) < probability; }

  // N(0, size^2), or size with a random sign.
  Tensor Random(const Shape& shape, DType dtype, Layout layout, double size, bool only_signs) {
    Shape stored = shape;
    if (layout == Layout::kTransposed) std::swap(stored[1], stored[2]);
    if (layout == Layout::kBroadcast) stored[0] = 1;
    std::vector<double> values = Normal(client::NumElements(stored));
    for (double& value : values) value = size * (only_signs ? std::copysign(1.0, value) : value);
    Tensor tensor = Tensor::FromDoubles(dtype, values, stored);
    if (layout == Layout::kTransposed) tensor = tensor.Transposed(1, 2);
    if (layout == Layout::kBroadcast) tensor = tensor.BroadcastTo(shape);
    return tensor;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
};

double FillValue(MaskFill fill, DType dtype) {
  if (fill == MaskFill::kMinusBillion) return -1e9;
  switch (dtype) {
    case DType::kFloat64:
      return std::numeric_limits<double>::lowest();
    case DType::kFloat32:
      return std::numeric_limits<float>::lowest();
    case DType::kFloat16:
      return -65504.0;
    default:
      return -0x1.fep127;  // bfloat16
  }
}

DType MaskDType(const Problem& problem, DType dtype) {
  if (problem.mask == MaskKind::kBool || problem.mask == MaskKind::kRows ||
      problem.mask == MaskKind::kKeys) {
    return DType::kBool;
  }
  const bool is_filled = problem.mask == MaskKind::kFilledHalf ||
                         problem.mask == MaskKind::kFilledRows ||
                         problem.mask == MaskKind::kLeftPadding;
  const bool overflows =
      is_filled && dtype == DType::kFloat16 && problem.fill == MaskFill::kMinusBillion;
  return overflows ? DType::kFloat32 : dtype;
}

Tensor FilledMask(const Problem& problem, DType dtype, Draws& draws) {
  const bool is_padding = problem.mask == MaskKind::kLeftPadding;
  const std::int64_t batches = is_padding ? problem.batch : 1;
  const std::int64_t heads = is_padding ? problem.heads_q : 1;
  const double fill = FillValue(problem.fill, dtype);
  std::vector<double> values = draws.Normal(batches * heads * problem.seq_q * problem.seq_kv);
  auto element = values.begin();
  for (std::int64_t b = 0; b < batches; ++b) {
    const std::int64_t padding = (b + 1) * problem.seq_kv / 4;
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < problem.seq_q; ++i) {
        for (std::int64_t j = 0; j < problem.seq_kv; ++j, ++element) {
          if (is_padding) {
            *element = std::ldexp(static_cast<double>(j), static_cast<int>(-h - 3));
            if (j > i || j < padding) *element += fill;
          } else if (problem.mask == MaskKind::kFilledRows ? i % 3 == 1 : j % 2 == 1) {
            *element = fill;
          }
        }
      }
    }
  }
  return Tensor::FromDoubles(MaskDType(problem, dtype), values,
                             {batches, heads, problem.seq_q, problem.seq_kv});
}

Tensor MakeMask(const Problem& problem, DType dtype, Draws& draws) {
  if (problem.mask == MaskKind::kRows) {
    std::vector<double> sees;
    for (std::int64_t row = 0; row < problem.heads_q * problem.seq_q; ++row) {
      sees.push_back(row % 3 != 1 ? 1.0 : 0.0);
    }
    return Tensor::FromDoubles(DType::kBool, sees, {problem.heads_q, problem.seq_q, 1});
  }
  if (problem.mask == MaskKind::kKeys) {
    std::vector<double> sees;
    for (std::int64_t j = 0; j < problem.seq_kv; ++j) sees.push_back(j % 5 != 1 ? 1.0 : 0.0);
    return Tensor::FromDoubles(DType::kBool, sees, {1, 1, 1, problem.seq_kv});
  }
  if (problem.mask == MaskKind::kHeadBias || problem.mask == MaskKind::kKeyBias) {
    const Shape shape = problem.mask == MaskKind::kHeadBias
                            ? Shape{1, problem.heads_q, problem.seq_q, problem.seq_kv}
                            : Shape{problem.batch, 1, 1, problem.seq_kv};
    return draws.Random(shape, dtype, Layout::kRowMajor, 1.0, /*only_signs=*/false);
  }
  if (problem.mask != MaskKind::kBool && problem.mask != MaskKind::kAdditive) {
    return FilledMask(problem, dtype, draws);
  }
  const bool additive = problem.mask == MaskKind::kAdditive;
  const std::int64_t rows = additive ? problem.batch * problem.seq_q : problem.seq_q;
  std::vector<double> values = draws.Normal(rows * problem.seq_kv);
  for (std::size_t i = 0; i < values.size(); ++i) {
    // The first key of each row stays: then no row is empty, with causal or without.
    const bool keep = i % static_cast<std::size_t>(problem.seq_kv) == 0;
    if (additive) {
      if (!keep && draws.Coin(0.1)) values[i] = -std::numeric_limits<double>::infinity();
    } else {
      values[i] = keep || !draws.Coin(0.25) ? 1.0 : 0.0;
    }
  }
  return additive
             ? Tensor::FromDoubles(dtype, values, {problem.batch, 1, problem.seq_q, problem.seq_kv})
             : Tensor::FromDoubles(DType::kBool, values, {problem.seq_q, problem.seq_kv});
}

Tensor Slopes(const Problem& problem, DType dtype) {
  std::vector<double> slopes;
  for (std::int64_t n = 0; n < problem.batch * problem.heads_q; ++n) {
    slopes.push_back(std::ldexp(1.0, -1 - static_cast<int>(n % 8)));
  }
  return Tensor::FromDoubles(
      dtype, slopes,
      problem.batch == 1 ? Shape{problem.heads_q} : Shape{problem.batch, problem.heads_q});
}

Tensor KvLengths(const Problem& problem) {
  std::vector<std::int32_t> lengths;
  const std::int64_t last = std::max<std::int64_t>(problem.batch - 1, 1);
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    const std::int64_t keys =
        problem.batch == 1 ? (problem.seq_kv + 1) / 2 : problem.seq_kv * (last - b) / last;
    lengths.push_back(static_cast<std::int32_t>(keys));
  }
  return Tensor::FromValues(lengths, {problem.batch});
}

Tensor Starts(const std::vector<std::int32_t>& documents) {
  std::vector<std::int32_t> starts = {0};
  for (const std::int32_t length : documents) starts.push_back(starts.back() + length);
  const auto count = static_cast<std::int64_t>(starts.size());
  return Tensor::FromValues(starts, {count});
}

}  // namespace

std::string Problem::Sizes() const {
  return absl::StrFormat("%dx%d/%d %dx%d d%d/%d", batch, heads_q, heads_kv, seq_q, seq_kv, head_dim,
                         head_dim_v);
}

DType OutputDType(const Problem& problem, std::string_view output, DType dtype) {
  if (output.starts_with("lse")) return client::StatisticsDType(dtype);
  return output.starts_with("bias") ? MaskDType(problem, dtype) : dtype;
}

bool Problem::IsIllConditioned() const {
  return magnitude != 1.0 || mask == MaskKind::kFilledHalf || mask == MaskKind::kFilledRows ||
         mask == MaskKind::kLeftPadding;
}

double Problem::MagnitudeOf(std::string_view output) const {
  const bool is_of_q_or_k = output.starts_with("q_") || output.starts_with("k_");
  if (!is_of_q_or_k) return 1.0;
  if (!output.ends_with("_dot")) return magnitude;
  // Where every row sees a single key these vanish, as differences of products (P_bar_dot -
  // delta_dot) k: two sums of head_dim_v terms each, times the largest elements of k.
  const auto terms = static_cast<double>(2 * std::max<std::int64_t>(head_dim_v, 1));
  return magnitude * 3.0 * std::sqrt(terms);
}

bool Applies(const Problem& problem, Operation operation, DType dtype) {
  const bool has_tangents = operation == Operation::kJvp || operation == Operation::kHvp;
  const bool has_cotangents = operation == Operation::kVjp || operation == Operation::kHvp;
  const bool is_fast = problem.options.precision == client::Precision::kFast;
  if (is_fast && dtype != DType::kFloat32) return false;
  if (problem.cotangents != Cotangents::kOutput && !has_cotangents) return false;
  if (problem.bias && operation == Operation::kForward) return false;
  if (problem.saved && operation == Operation::kForward) return false;
  if (problem.poison == Poison::kSeen && !Reads(operation, problem.poisoned)) return false;
  return has_tangents || (!problem.only_v_tangent && !problem.only_q_tangent);
}

AttentionRequest MakeRequest(const Problem& problem, Operation operation, DType dtype,
                             std::uint64_t draw) {
  const Shape q = {problem.batch, problem.heads_q, problem.seq_q, problem.head_dim};
  const Shape k = {problem.batch, problem.heads_kv, problem.seq_kv, problem.head_dim};
  const Shape v = {problem.batch, problem.heads_kv, problem.seq_kv, problem.head_dim_v};
  const Shape o = {problem.batch, problem.heads_q, problem.seq_q, problem.head_dim_v};
  const Shape lse = {problem.batch, problem.heads_q, problem.seq_q};

  AttentionRequest request;
  Draws draws(20240607 + draw);
  const auto draw_tensor = [&](std::string_view name, const Shape& shape) -> client::AnyTensor {
    const bool is_score_factor = name == "q" || name == "k";
    double size = 1.0;
    if (is_score_factor) size = problem.magnitude;
    if (name == "q_dot" || name == "k_dot") size = 1.0 / problem.magnitude;
    Tensor tensor =
        draws.Random(shape, dtype, problem.layout, size, problem.ties && is_score_factor);
    if (!Reads(operation, name)) return {};
    return tensor;
  };
  request.q = draw_tensor("q", q);
  request.k = draw_tensor("k", k);
  request.v = draw_tensor("v", v);
  request.o_bar = draw_tensor("o_bar", o);
  request.q_dot = draw_tensor("q_dot", q);
  request.k_dot = draw_tensor("k_dot", k);
  request.v_dot = draw_tensor("v_dot", v);
  request.o_bar_dot = draw_tensor("o_bar_dot", o);
  if (problem.only_v_tangent) request.q_dot = {};
  if (problem.only_q_tangent) request.v_dot = {};
  if (problem.only_v_tangent || problem.only_q_tangent) {
    request.k_dot = {};
    request.o_bar_dot = {};
  }

  request.options = problem.options;
  if (problem.mask != MaskKind::kNone) request.options.mask = MakeMask(problem, dtype, draws);
  if (problem.alibi) request.options.alibi_slopes = Slopes(problem, dtype);
  if (problem.kv_lengths) request.options.kv_lengths = KvLengths(problem);
  if (!problem.documents_q.empty()) {
    request.options.cu_seqlens_q = Starts(problem.documents_q);
    request.options.cu_seqlens_kv = Starts(problem.documents_kv);
  }
  const auto draw_more = [&](std::string_view name, const Shape& shape,
                             DType of) -> client::AnyTensor {
    Tensor tensor = draws.Random(shape, of, Layout::kRowMajor, 1.0, /*only_signs=*/false);
    if (!Reads(operation, name)) return {};
    return tensor;
  };
  if (problem.cotangents != Cotangents::kOutput) {
    request.lse_bar = draw_more("lse_bar", lse, client::StatisticsDType(dtype));
    request.lse_bar_dot = draw_more("lse_bar_dot", lse, client::StatisticsDType(dtype));
  }
  if (problem.cotangents == Cotangents::kStatistic) request.o_bar = request.o_bar_dot = {};
  if (problem.bias) {
    const Tensor& mask = request.options.mask.local();
    request.bias_dot = draw_more("bias_dot", mask.shape(), mask.dtype());
  }
  AddPoison(problem, request);
  for (const client::OutputField& field : client::kOutputFields) {
    const bool is_of_bias = field.name.starts_with("bias");
    if (Produces(operation, field.name) && (problem.bias || !is_of_bias)) {
      request.outputs.*field.mode = client::OutputMode::kInline;
    }
  }
  return request;
}

AttentionRequest Widened(AttentionRequest request) {
  const auto widen = [](client::AnyTensor& tensor) {
    if (tensor.has_value() && client::IsFloatingPoint(tensor.local().dtype())) {
      tensor = tensor.local().Cast(DType::kFloat64);
    }
  };
  for (const client::InputField& field : client::kInputFields) widen(request.*field.member);
  for (const client::OptionTensor& option : client::kOptionTensors) {
    widen(request.options.*option.member);
  }
  return request;
}

bool Reads(Operation operation, std::string_view input) {
  if (input == "q" || input == "k" || input == "v") return true;
  if (operation == Operation::kForward) return false;
  if (input == "o" || input == "lse") return true;
  if (input == "o_bar" || input == "lse_bar") return operation != Operation::kJvp;
  if (input == "o_bar_dot" || input == "lse_bar_dot") return operation == Operation::kHvp;
  return operation != Operation::kVjp;  // q_dot, k_dot, v_dot, bias_dot
}

bool Produces(Operation operation, std::string_view output) {
  if (output == "o" || output == "lse") return true;
  if (output == "o_dot" || output == "lse_dot") {
    return operation == Operation::kJvp || operation == Operation::kHvp;
  }
  if (output.ends_with("_bar")) {
    return operation == Operation::kVjp || operation == Operation::kHvp;
  }
  return operation == Operation::kHvp;  // q_bar_dot, k_bar_dot, v_bar_dot, bias_bar_dot
}

}  // namespace theria::cli
