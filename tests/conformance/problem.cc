#include "tests/conformance/problem.h"

#include <algorithm>
#include <limits>
#include <random>

namespace theria::conformance {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

AttentionOptions Causal() {
  AttentionOptions options;
  options.is_causal = true;
  return options;
}

AttentionOptions WithWindow(std::optional<std::int64_t> left, std::optional<std::int64_t> right) {
  AttentionOptions options;
  options.window = Window{left, right};
  return options;
}

AttentionOptions WithDropout(double probability) {
  AttentionOptions options;
  options.dropout = {probability, 0x123456789ABCDEFu, 42};
  return options;
}

AttentionOptions WithScale(double scale) {
  AttentionOptions options;
  options.scale = scale;
  return options;
}

AttentionOptions Everything() {
  AttentionOptions options = WithDropout(0.25);
  options.is_causal = true;
  options.window = Window{40, std::nullopt};
  options.scale = 0.3;
  return options;
}

std::vector<ProblemCase> MakeCases() {
  using enum MaskKind;
  return {
      // name, batch, heads_q, heads_kv, seq_q, seq_kv, head_dim, head_dim_v
      {"one_element", 1, 1, 1, 1, 1, 1, 1},
      {"one_query", 1, 2, 2, 1, 90, 16, 16},
      {"one_key", 1, 2, 2, 19, 1, 16, 16},
      {"small", 1, 1, 1, 16, 16, 16, 16},
      {"square", 2, 4, 4, 33, 33, 16, 16},
      {"more_keys", 1, 2, 2, 17, 70, 24, 8},
      {"more_queries", 1, 2, 2, 70, 17, 8, 24},
      {"odd_dims", 2, 1, 1, 13, 15, 5, 3},
      {"widest_keys", 1, 1, 1, 9, 11, 512, 1},
      {"widest_values", 1, 1, 1, 9, 11, 1, 512},
      {"many_tiles", 1, 1, 1, 150, 200, 32, 40},
      {"vision", 1, 2, 2, 197, 197, 64, 64},
      {"long_keys", 1, 1, 1, 70, 1100, 8, 8},
      {"many_threads", 2, 2, 2, 300, 280, 16, 16},
      {"grouped", 2, 6, 2, 40, 50, 16, 16},
      {"multi_query", 1, 4, 1, 70, 130, 16, 8},
      {"causal", 1, 2, 2, 130, 130, 16, 16, Causal()},
      {"causal_more_keys", 1, 1, 1, 40, 90, 16, 16, Causal()},
      {"causal_more_queries", 1, 1, 1, 90, 40, 16, 16, Causal()},
      {"causal_grouped", 1, 4, 2, 100, 100, 8, 8, Causal()},
      {"window", 1, 2, 2, 150, 150, 16, 16, WithWindow(20, 7)},
      {"window_left", 1, 1, 1, 100, 100, 16, 16, WithWindow(10, std::nullopt)},
      {"window_right", 1, 1, 1, 100, 100, 16, 16, WithWindow(std::nullopt, 3)},
      {"window_diagonal", 1, 1, 1, 70, 70, 8, 8, WithWindow(0, 0)},
      {"window_past_the_keys", 1, 1, 1, 120, 30, 8, 8, WithWindow(4, 4)},
      {"window_huge", 1, 1, 1, 20, 20, 8, 8,
       WithWindow(std::numeric_limits<std::int64_t>::max(),
                  std::numeric_limits<std::int64_t>::max())},
      {"mask_bool", 2, 2, 1, 40, 70, 8, 8, {}, kBool},
      {"mask_key_padding", 2, 2, 2, 20, 75, 8, 8, {}, kKeyPadding},
      {"mask_query_column", 1, 2, 2, 40, 20, 8, 8, {}, kQueryColumn},
      {"mask_key_row", 1, 2, 2, 30, 66, 8, 8, {}, kKeyRow},
      {"mask_additive", 2, 2, 2, 40, 66, 8, 8, {}, kAdditive},
      {"mask_additive_float16", 2, 4, 2, 20, 66, 8, 8, {}, kAdditiveFloat16},
      {"dropout", 1, 2, 2, 40, 70, 16, 16, WithDropout(0.1)},
      {"dropout_half_grouped", 2, 4, 2, 70, 130, 8, 8, WithDropout(0.5)},
      {"dropout_nearly_all", 1, 1, 1, 20, 30, 8, 8, WithDropout(0.95)},
      {"everything", 2, 4, 2, 150, 140, 24, 16, Everything(), kBool, Layout::kHeadsInner},
      {"scale", 1, 1, 1, 20, 30, 8, 8, WithScale(0.3)},
      {"scale_zero", 1, 1, 1, 20, 30, 8, 8, WithScale(0.0)},
      {"scale_negative", 1, 1, 1, 20, 30, 8, 8, WithScale(-0.5)},
      {"scale_peaked", 1, 1, 1, 20, 30, 8, 8, WithScale(20.0)},
      {"heads_inner", 2, 4, 2, 40, 50, 16, 16, {}, kNone, Layout::kHeadsInner},
      {"transposed", 2, 2, 2, 40, 50, 16, 8, {}, kNone, Layout::kTransposed},
      {"gapped", 2, 2, 2, 40, 50, 16, 8, {}, kNone, Layout::kGapped},
  };
}

// `value(generator)` for each element.
template <typename Value>
Array Filled(std::vector<std::int64_t> shape, std::mt19937_64& generator, Value value) {
  Array array = Zeros(std::move(shape));
  for (double& element : array.values) element = value(generator);
  return array;
}

std::optional<HostTensor> MakeMask(const ProblemCase& c, DType dtype, std::mt19937_64& generator) {
  const auto takes_part = [](std::mt19937_64& g) { return g() % 3 == 0 ? 0.0 : 1.0; };
  const auto added = [](std::mt19937_64& g) {
    return g() % 5 == 0 ? -kInfinity : std::normal_distribution<double>()(g);
  };
  switch (c.mask_kind) {
    case MaskKind::kNone:
      return std::nullopt;
    case MaskKind::kBool:
      return EncodeBool(Filled({c.batch, c.heads_q, c.seq_q, c.seq_kv}, generator, takes_part));
    case MaskKind::kKeyPadding:
      return EncodeBool(Filled({c.batch, 1, 1, c.seq_kv}, generator, takes_part));
    case MaskKind::kQueryColumn:
      return EncodeBool(Filled({c.seq_q, 1}, generator, takes_part));
    case MaskKind::kKeyRow:
      return Encode(RandomNormal({c.seq_kv}, generator), DType::kFloat64, Layout::kRowMajor);
    case MaskKind::kAdditive:
      return Encode(Filled({c.heads_q, c.seq_q, c.seq_kv}, generator, added), dtype,
                    Layout::kTransposed);
    case MaskKind::kAdditiveFloat16:
      return Encode(Filled({1, c.heads_q, 1, c.seq_kv}, generator, added), DType::kFloat16,
                    Layout::kRowMajor);
  }
  return std::nullopt;
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const ProblemCase& problem_case) {
  return out << problem_case.name;
}

const std::vector<ProblemCase>& ProblemCases() {
  static const std::vector<ProblemCase>& cases = *new std::vector<ProblemCase>(MakeCases());
  return cases;
}

const ProblemCase& CaseNamed(const std::string& name) {
  const std::vector<ProblemCase>& cases = ProblemCases();
  return *std::find_if(cases.begin(), cases.end(),
                       [&](const ProblemCase& c) { return c.name == name; });
}

Arrays Problem::Values() const {
  Arrays values;
  for (const auto& [name, tensor] : inputs) values[name] = Decode(tensor);
  return values;
}

void Problem::Set(const std::string& name, const Array& array) {
  inputs[name] = Encode(array, dtype, shape.layout);
}

Problem MakeProblem(const ProblemCase& c, DType dtype) {
  std::mt19937_64 generator(c.seq_q * 1000003 + c.seq_kv * 1009 + c.head_dim);
  Problem problem;
  problem.shape = c;
  problem.dtype = dtype;
  const std::vector<std::int64_t> q = {c.batch, c.heads_q, c.seq_q, c.head_dim};
  const std::vector<std::int64_t> k = {c.batch, c.heads_kv, c.seq_kv, c.head_dim};
  const std::vector<std::int64_t> v = {c.batch, c.heads_kv, c.seq_kv, c.head_dim_v};
  const std::vector<std::int64_t> o = {c.batch, c.heads_q, c.seq_q, c.head_dim_v};
  for (const auto& [name, shape] : {std::pair{"q", q},
                                    {"k", k},
                                    {"v", v},
                                    {"o_bar", o},
                                    {"q_dot", q},
                                    {"k_dot", k},
                                    {"v_dot", v},
                                    {"o_bar_dot", o}}) {
    problem.Set(name, RandomNormal(shape, generator));
  }
  problem.mask = MakeMask(c, dtype, generator);
  return problem;
}

}  // namespace theria::conformance
