// The identities of docs/operator_contract.md, in float64.

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/conformance/conformance_test.h"

namespace theria::conformance {
namespace {

class IdentityTest : public ProblemTest {
 protected:
  Problem problem_ = MakeProblem(problem_case(), DType::kFloat64);
  const Arrays values_ = problem_.Values();

  Arrays Run(Operation operation, const Problem& problem) {
    return RunArrays(target(), operation, problem);
  }
};

// sum_x <a[x + suffix_a], b[x + suffix_b]> over q, k, v and the bias where it is differentiated,
// and the sum of the magnitudes.
struct Product {
  double value = 0.0;
  double magnitude = 0.0;
};
void Add(const Array& a, const Array& b, Product& product) {
  for (std::size_t i = 0; i < a.values.size(); ++i) {
    product.value += a.values[i] * b.values[i];
    product.magnitude += std::abs(a.values[i] * b.values[i]);
  }
}
Product ProductOver(const Arrays& a, const std::string& suffix_a, const Arrays& b,
                    const std::string& suffix_b) {
  Product product;
  for (const std::string name : {"q", "k", "v", "bias"}) {
    if (name == "bias" && a.count(name + suffix_a) == 0) continue;
    Add(a.at(name + suffix_a), b.at(name + suffix_b), product);
  }
  return product;
}

TEST_P(IdentityTest, VjpIsTheAdjointOfJvp) {
  const Arrays jvp = Run(Operation::kJvp, problem_);
  const Arrays vjp = Run(Operation::kVjp, problem_);
  Product left;
  Add(values_.at("o_bar"), jvp.at("o_dot"), left);
  if (values_.count("lse_bar") != 0) Add(values_.at("lse_bar"), jvp.at("lse_dot"), left);
  const Product right = ProductOver(vjp, "_bar", values_, "_dot");
  EXPECT_NEAR(left.value, right.value,
              Identity(target().arithmetic) * (1.0 + left.magnitude + right.magnitude));
}

TEST_P(IdentityTest, HvpIsSymmetric) {
  problem_.inputs.erase("o_bar_dot");
  problem_.inputs.erase("lse_bar_dot");
  Problem other = problem_;
  std::mt19937_64 generator(7);
  for (const char* name : {"q_dot", "k_dot", "v_dot", "bias_dot"}) {
    if (values_.count(name) == 0) continue;
    other.Set(name, RandomNormal(values_.at(name).shape, generator));
  }
  const Arrays others = other.Values();
  const Product left = ProductOver(Run(Operation::kHvp, problem_), "_bar_dot", others, "_dot");
  const Product right = ProductOver(Run(Operation::kHvp, other), "_bar_dot", values_, "_dot");
  EXPECT_NEAR(left.value, right.value,
              Identity(target().arithmetic) * (1.0 + left.magnitude + right.magnitude));
}

TEST_P(IdentityTest, VjpIsLinear) {
  Problem other = problem_;
  Problem both = problem_;
  for (const std::string name : {"o_bar", "lse_bar"}) {
    if (values_.count(name) == 0) continue;
    const Array& tangent = values_.at(name + "_dot");
    other.Set(name, tangent);
    both.Set(name, Combine(2.0, values_.at(name), -3.0, tangent));
  }
  const Arrays first = Run(Operation::kVjp, problem_);
  const Arrays second = Run(Operation::kVjp, other);
  const Arrays sum = Run(Operation::kVjp, both);
  for (const char* name : {"q_bar", "k_bar", "v_bar", "bias_bar"}) {
    if (sum.count(name) == 0) continue;
    EXPECT_TRUE(Near(sum.at(name), Combine(2.0, first.at(name), -3.0, second.at(name)),
                     Reordered(target().arithmetic)))
        << name;
  }
}

TEST_P(IdentityTest, JvpAndHvpAreLinearInTheTangents) {
  std::mt19937_64 generator(8);
  Problem other = problem_;
  Problem both = problem_;
  for (const char* name : {"q_dot", "k_dot", "v_dot", "o_bar_dot", "lse_bar_dot", "bias_dot"}) {
    if (values_.count(name) == 0) continue;
    const Array tangent = RandomNormal(values_.at(name).shape, generator);
    other.Set(name, tangent);
    both.Set(name, Combine(2.0, values_.at(name), -3.0, tangent));
  }
  for (const Operation operation : {Operation::kJvp, Operation::kHvp}) {
    const Arrays first = Run(operation, problem_);
    const Arrays second = Run(operation, other);
    const Arrays sum = Run(operation, both);
    for (const auto& [name, array] : sum) {
      if (name.find("_dot") == std::string::npos) continue;
      EXPECT_TRUE(Near(array, Combine(2.0, first.at(name), -3.0, second.at(name)),
                       Reordered(target().arithmetic)))
          << OperationName(operation) << " " << name;
    }
  }
}

TEST_P(IdentityTest, ZeroInZeroOut) {
  Problem zero = problem_;
  for (const auto& [name, array] : values_) {
    if (name != "q" && name != "k" && name != "v") zero.Set(name, Zeros(array.shape));
  }
  for (const Operation operation : {Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    for (const auto& [name, array] : Run(operation, zero)) {
      if (name != "o" && name != "lse") {
        EXPECT_EQ(MaxAbs(array), 0.0) << OperationName(operation) << " " << name;
      }
    }
  }
}

// The part of an array that belongs to one batch element and the heads [first, first + count).
Array Part(const Array& array, std::int64_t batch, std::int64_t first, std::int64_t count) {
  Array part;
  part.shape = array.shape;
  part.shape[0] = 1;
  part.shape[1] = count;
  const auto plane =
      static_cast<std::int64_t>(array.values.size()) / (array.shape[0] * array.shape[1]);
  const auto begin = array.values.begin() + (batch * array.shape[1] + first) * plane;
  part.values.assign(begin, begin + count * plane);
  return part;
}

TEST_P(IdentityTest, BatchesAndHeadsAreIndependent) {
  const ProblemCase& c = problem_case();
  // Draws and per-head masks belong to an index, which a part would change.
  if (c.options.dropout.probability > 0.0 || c.mask_kind != MaskKind::kNone) return;
  if (c.alibi_rank > 0 || c.key_lengths) return;
  const Arrays all = Run(Operation::kHvp, problem_);
  const std::int64_t batch = c.batch - 1;
  const std::int64_t head_kv = c.heads_kv - 1;
  const std::int64_t group = c.heads_q / c.heads_kv;
  const auto part = [&](const std::string& name, const Array& array) {
    const bool is_key = name[0] == 'k' || name[0] == 'v';
    return is_key ? Part(array, batch, head_kv, 1) : Part(array, batch, head_kv * group, group);
  };
  Problem alone = problem_;
  alone.shape.batch = 1;
  alone.shape.heads_q = group;
  alone.shape.heads_kv = 1;
  for (const auto& [name, array] : values_) alone.Set(name, part(name, array));
  for (const auto& [name, array] : Run(Operation::kHvp, alone)) {
    EXPECT_TRUE(Near(array, part(name, all.at(name)), Reordered(target().arithmetic))) << name;
  }
}

// array with its rows (dimension 2) in another order
Array PermuteRows(const Array& array, const std::vector<std::int64_t>& order) {
  Array result = array;
  const std::int64_t rows = array.shape[2];
  const std::int64_t width = array.shape[3];
  for (std::int64_t plane = 0; plane < array.shape[0] * array.shape[1]; ++plane) {
    for (std::int64_t row = 0; row < rows; ++row) {
      std::copy_n(array.values.begin() + (plane * rows + order[row]) * width, width,
                  result.values.begin() + (plane * rows + row) * width);
    }
  }
  return result;
}

TEST_P(IdentityTest, OrderOfKeysDoesNotMatter) {
  const ProblemCase& c = problem_case();
  const AttentionOptions& options = c.options;
  if (options.is_causal || options.window.has_value() || c.mask_kind != MaskKind::kNone ||
      options.dropout.probability > 0.0 || c.alibi_rank > 0 || c.key_lengths || c.documents > 0) {
    return;  // these tell keys apart by their index
  }
  std::vector<std::int64_t> order(c.seq_kv);
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), std::mt19937_64(9));
  Problem permuted = problem_;
  for (const char* name : {"k", "v", "k_dot", "v_dot"}) {
    permuted.Set(name, PermuteRows(values_.at(name), order));
  }
  const Arrays expected = Run(Operation::kHvp, problem_);
  for (const auto& [name, array] : Run(Operation::kHvp, permuted)) {
    const bool is_key = name[0] == 'k' || name[0] == 'v';
    const Array& reference = expected.at(name);
    EXPECT_TRUE(Near(array, is_key ? PermuteRows(reference, order) : reference,
                     Reordered(target().arithmetic)))
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, IdentityTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::ValuesIn(ProblemCases())),
                         ProblemTestName);

}  // namespace
}  // namespace theria::conformance
