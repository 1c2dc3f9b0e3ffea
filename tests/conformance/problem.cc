#include "tests/conformance/problem.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

namespace theria::conformance {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

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
    case MaskKind::kBias: {
      const std::int64_t full[] = {c.batch, c.heads_q, c.seq_q, c.seq_kv};
      std::vector<std::int64_t> shape;
      for (int axis = 0; axis < 4; ++axis) {
        shape.push_back((c.bias_dimensions >> (3 - axis) & 1) != 0 ? full[axis] : 1);
      }
      const auto bias = [](std::mt19937_64& g) {
        return g() % 20 == 0 ? -kInfinity : std::normal_distribution<double>()(g);
      };
      // One number for all pairs forbids none.
      if (c.bias_dimensions == 0) return Encode(Zeros(shape), dtype, Layout::kRowMajor);
      return Encode(Filled(shape, generator, bias), dtype, Layout::kTransposed);
    }
  }
  return std::nullopt;
}

// Offsets of documents in `total` rows or keys, of random lengths, some of them 0.
std::vector<std::int64_t> Offsets(int documents, std::int64_t total, std::mt19937_64& generator) {
  std::vector<std::int64_t> offsets = {0, total};
  for (int cut = 1; cut < documents; ++cut) {
    const bool repeats = generator() % 4 == 0;
    const std::int64_t anywhere = static_cast<std::int64_t>(generator() % (total + 1));
    offsets.push_back(repeats ? offsets.back() : anywhere);
  }
  std::sort(offsets.begin(), offsets.end());
  return offsets;
}

void MakeOptionTensors(std::mt19937_64& generator, Problem& problem) {
  const ProblemCase& c = problem.shape;
  if (c.alibi_rank > 0) {
    std::vector<std::int64_t> shape = {c.heads_q};
    if (c.alibi_rank == 2) shape.insert(shape.begin(), c.batch);
    const auto slope = [](std::mt19937_64& g) {
      return std::exp2(-static_cast<double>(1 + g() % 8));
    };
    problem.option_tensors["alibi_slopes"] =
        Encode(Filled(shape, generator, slope), c.alibi_rank == 1 ? DType::kFloat32 : problem.dtype,
               Layout::kRowMajor);
  }
  if (c.key_lengths) {
    std::vector<std::int64_t> lengths;
    for (std::int64_t b = 0; b < c.batch; ++b) {
      const std::int64_t any = static_cast<std::int64_t>(generator() % (c.seq_kv + 1));
      lengths.push_back(b == 0 ? std::max<std::int64_t>(any, 1) : b == 1 ? 0 : any);
    }
    problem.option_tensors["kv_lengths"] = EncodeInt32(lengths);
  }
  if (c.documents > 0) {
    problem.option_tensors["cu_seqlens_q"] = EncodeInt32(Offsets(c.documents, c.seq_q, generator));
    problem.option_tensors["cu_seqlens_kv"] =
        EncodeInt32(Offsets(c.documents, c.seq_kv, generator));
  }
}

}  // namespace

std::ostream& operator<<(std::ostream& out, const ProblemCase& problem_case) {
  return out << problem_case.name;
}

bool NeedsExtension(const ProblemCase& c) {
  return c.alibi_rank > 0 || c.key_lengths || c.documents > 0 || c.extended ||
         c.options.softcap.has_value() || c.options.deterministic ||
         c.options.causal_alignment != CausalAlignment::kUpperLeft ||
         std::min({c.batch, c.heads_q, c.seq_q, c.seq_kv, c.head_dim, c.head_dim_v}) == 0;
}

bool Problem::has_bias() const {
  return shape.extended && mask.has_value() && IsFloatingPoint(mask->dtype);
}

DType Problem::DTypeOf(const std::string& name) const {
  if (name.starts_with("bias")) return mask->dtype;
  return name.starts_with("lse") ? StatisticsDType(dtype) : dtype;
}

Arrays Problem::Values() const {
  Arrays values;
  for (const auto& [name, tensor] : inputs) values[name] = Decode(tensor);
  return values;
}

void Problem::Set(const std::string& name, const Array& array) {
  const bool has_layout = !name.starts_with("bias");
  inputs[name] = Encode(array, DTypeOf(name), has_layout ? shape.layout : Layout::kRowMajor);
}

Problem MakeProblem(const ProblemCase& c, DType dtype) {
  std::mt19937_64 generator(c.seq_q * 1000003 + c.seq_kv * 1009 + c.head_dim +
                            c.draw * 0x9E3779B97F4A7C15u);
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
  MakeOptionTensors(generator, problem);
  if (c.extended) {
    for (const char* name : {"lse_bar", "lse_bar_dot"}) {
      problem.Set(name, RandomNormal({c.batch, c.heads_q, c.seq_q}, generator));
    }
  }
  if (problem.has_bias()) problem.Set("bias_dot", RandomNormal(problem.mask->shape, generator));
  return problem;
}

}  // namespace theria::conformance
