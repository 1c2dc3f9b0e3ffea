#include "client/cli/parity/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "absl/strings/str_format.h"

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

  Tensor Random(const Shape& shape, DType dtype, Layout layout) {
    Shape stored = shape;
    if (layout == Layout::kTransposed) std::swap(stored[1], stored[2]);
    if (layout == Layout::kBroadcast) stored[0] = 1;
    Tensor tensor = Tensor::FromDoubles(dtype, Normal(client::NumElements(stored)), stored);
    if (layout == Layout::kTransposed) tensor = tensor.Transposed(1, 2);
    if (layout == Layout::kBroadcast) tensor = tensor.BroadcastTo(shape);
    return tensor;
  }

 private:
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
  std::uniform_real_distribution<double> uniform_;
};

Tensor MakeMask(const Problem& problem, DType dtype, Draws& draws) {
  if (problem.mask == MaskKind::kRows) {
    std::vector<double> sees;
    for (std::int64_t row = 0; row < problem.heads_q * problem.seq_q; ++row) {
      sees.push_back(row % 3 != 1 ? 1.0 : 0.0);
    }
    return Tensor::FromDoubles(DType::kBool, sees, {problem.heads_q, problem.seq_q, 1});
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

// One problem for each option of the contract, around the default sizes.
std::vector<Problem> OptionProblems() {
  return {
      {.option_class = "plain", .identities = true},
      {.option_class = "causal", .is_causal = true, .identities = true},
      {.option_class = "window", .seq_q = 40, .seq_kv = 40, .window = client::Window{5, 3}},
      {.option_class = "causal window", .is_causal = true, .window = client::Window{.left = 7}},
      {.option_class = "bool mask", .mask = MaskKind::kBool},
      {.option_class = "additive mask",
       .batch = 2,
       .mask = MaskKind::kAdditive,
       .identities = true},
      {.option_class = "masked rows", .mask = MaskKind::kRows},
      {.option_class = "dropout", .dropout = 0.25, .identities = true},
      {.option_class = "grouped queries", .heads_q = 4, .heads_kv = 2, .identities = true},
      {.option_class = "head_dim_v", .head_dim = 16, .head_dim_v = 24},
      {.option_class = "seq_q < seq_kv", .seq_q = 17, .seq_kv = 50},
      {.option_class = "seq_q > seq_kv", .seq_q = 50, .seq_kv = 17, .is_causal = true},
      {.option_class = "scale", .scale = 0.5},
      {.option_class = "strides", .batch = 2, .layout = Layout::kTransposed},
      {.option_class = "broadcast", .batch = 3, .layout = Layout::kBroadcast},
      {.option_class = "saved o, lse", .is_causal = true, .saved = true},
      {.option_class = "absent tangents", .only_v_tangent = true},
      {.option_class = "absent tangents", .only_q_tangent = true},
      {.option_class = "fast", .precision = client::Precision::kFast},
      {.option_class = "all at once",
       .batch = 2,
       .heads_q = 4,
       .heads_kv = 2,
       .seq_q = 37,
       .seq_kv = 41,
       .head_dim = 16,
       .head_dim_v = 24,
       .scale = 0.3,
       .is_causal = true,
       .window = client::Window{.left = 20},
       .mask = MaskKind::kAdditive,
       .dropout = 0.1,
       .layout = Layout::kTransposed,
       .saved = true,
       .identities = true},
  };
}

// Sizes at which tiles begin and end, and those that models have.
std::vector<Problem> SizeProblems() {
  std::vector<Problem> problems;
  for (const std::int64_t seq : {2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 197}) {
    problems.push_back(
        {.option_class = "lengths", .seq_q = seq, .seq_kv = seq, .head_dim = 64, .head_dim_v = 64});
    problems.push_back({.option_class = "lengths, causal",
                        .seq_q = seq,
                        .seq_kv = seq,
                        .head_dim = 64,
                        .head_dim_v = 64,
                        .is_causal = true});
  }
  for (const std::int64_t head_dim : {1, 8, 24, 32, 64, 80, 96, 128, 256, 512}) {
    problems.push_back({.option_class = "head dimensions",
                        .heads_q = 1,
                        .heads_kv = 1,
                        .head_dim = head_dim,
                        .head_dim_v = head_dim});
  }
  problems.push_back({.option_class = "one query",
                      .batch = 4,
                      .seq_q = 1,
                      .seq_kv = 100,
                      .head_dim = 64,
                      .head_dim_v = 64});
  problems.push_back({.option_class = "long",
                      .heads_q = 1,
                      .heads_kv = 1,
                      .seq_q = 512,
                      .seq_kv = 512,
                      .head_dim = 64,
                      .head_dim_v = 64,
                      .is_causal = true,
                      .dropout = 0.1});
  return problems;
}

// The option problems once more, at sizes that take several tiles.
std::vector<Problem> LargerOptionProblems() {
  std::vector<Problem> problems = OptionProblems();
  for (Problem& problem : problems) {
    problem.seq_q = problem.seq_q * 4 + 1;
    problem.seq_kv = problem.seq_kv * 4 + 1;
    problem.head_dim = 64;
    problem.head_dim_v = problem.option_class == "head_dim_v" ? 96 : 64;
  }
  return problems;
}

}  // namespace

std::string Problem::Sizes() const {
  return absl::StrFormat("%dx%d/%d %dx%d d%d/%d", batch, heads_q, heads_kv, seq_q, seq_kv, head_dim,
                         head_dim_v);
}

std::vector<Problem> Problems(Suite suite) {
  std::vector<Problem> problems = OptionProblems();
  if (suite == Suite::kFull) {
    for (const std::vector<Problem>& more : {LargerOptionProblems(), SizeProblems()}) {
      problems.insert(problems.end(), more.begin(), more.end());
    }
  }
  return problems;
}

bool Applies(const Problem& problem, Operation operation, DType dtype) {
  const bool has_tangents = operation == Operation::kJvp || operation == Operation::kHvp;
  if (problem.precision == client::Precision::kFast && dtype != DType::kFloat32) return false;
  if (problem.saved && operation == Operation::kForward) return false;
  return has_tangents || (!problem.only_v_tangent && !problem.only_q_tangent);
}

AttentionRequest MakeRequest(const Problem& problem, Operation operation, DType dtype,
                             std::uint64_t draw) {
  const Shape q = {problem.batch, problem.heads_q, problem.seq_q, problem.head_dim};
  const Shape k = {problem.batch, problem.heads_kv, problem.seq_kv, problem.head_dim};
  const Shape v = {problem.batch, problem.heads_kv, problem.seq_kv, problem.head_dim_v};
  const Shape o = {problem.batch, problem.heads_q, problem.seq_q, problem.head_dim_v};

  AttentionRequest request;
  Draws draws(20240607 + draw);
  const auto draw_tensor = [&](std::string_view name, const Shape& shape) -> client::AnyTensor {
    Tensor tensor = draws.Random(shape, dtype, problem.layout);
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

  request.options.scale = problem.scale;
  request.options.is_causal = problem.is_causal;
  request.options.window = problem.window;
  if (problem.mask != MaskKind::kNone) request.options.mask = MakeMask(problem, dtype, draws);
  request.options.dropout = {.probability = problem.dropout, .seed = 7, .offset = 3};
  request.options.precision = problem.precision;
  for (const client::OutputField& field : client::kOutputFields) {
    if (Produces(operation, field.name)) {
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
  widen(request.options.mask);
  return request;
}

bool Reads(Operation operation, std::string_view input) {
  if (input == "q" || input == "k" || input == "v") return true;
  if (operation == Operation::kForward) return false;
  if (input == "o" || input == "lse") return true;
  if (input == "o_bar") return operation != Operation::kJvp;
  if (input == "o_bar_dot") return operation == Operation::kHvp;
  return operation != Operation::kVjp;  // q_dot, k_dot, v_dot
}

bool Produces(Operation operation, std::string_view output) {
  if (output == "o" || output == "lse") return true;
  if (output == "o_dot" || output == "lse_dot") {
    return operation == Operation::kJvp || operation == Operation::kHvp;
  }
  if (output == "q_bar" || output == "k_bar" || output == "v_bar") {
    return operation == Operation::kVjp || operation == Operation::kHvp;
  }
  return operation == Operation::kHvp;  // q_bar_dot, k_bar_dot, v_bar_dot
}

}  // namespace theria::cli
