// A drawn sample of combinations of options, dtypes, shapes, masks, layouts and absent tensors,
// each in all operations against the dense oracle. The table of problem.cc has each option alone.

#include <map>
#include <random>

#include "tests/conformance/conformance_test.h"
#include "tests/conformance/dense_oracle.h"

namespace theria::conformance {
namespace {

constexpr int kCombinations = 360;

// A choice of a combination: `generator` and its case.
class Draw {
 public:
  explicit Draw(int index) : generator_(0x7E51A000u + static_cast<unsigned>(index)) {
    DrawShape();
    DrawOptions();
    DrawMask();
    case_.name = "drawn";
    case_.extended = Happens(0.6);
    dtype_ = kDTypes[index % std::size(kDTypes)];
  }

  const ProblemCase& problem_case() const { return case_; }

  Problem Make() {
    Problem problem = MakeProblem(case_, dtype_);
    for (const char* name :
         {"q_dot", "k_dot", "v_dot", "o_bar_dot", "lse_bar", "lse_bar_dot", "bias_dot"}) {
      if (Happens(0.15)) problem.inputs.erase(name);
    }
    if (problem.inputs.count("lse_bar") != 0 && Happens(0.15)) problem.inputs.erase("o_bar");
    return problem;
  }

 private:
  bool Happens(double probability) {
    return std::uniform_real_distribution<double>()(generator_) < probability;
  }
  std::int64_t Below(std::int64_t limit) {
    return static_cast<std::int64_t>(generator_() % static_cast<std::uint64_t>(limit));
  }
  template <typename Value, std::size_t kCount>
  Value OneOf(const Value (&values)[kCount]) {
    return values[Below(kCount)];
  }

  void DrawShape() {
    constexpr std::int64_t kDims[] = {1, 3, 8, 8, 16, 24, 33};
    constexpr Layout kLayouts[] = {Layout::kRowMajor, Layout::kRowMajor, Layout::kHeadsInner,
                                   Layout::kTransposed, Layout::kGapped};
    case_.batch = 1 + Below(3);
    case_.heads_kv = 1 + Below(2);
    case_.heads_q = case_.heads_kv * (1 + Below(3));
    case_.seq_q = 1 + Below(Happens(0.2) ? 140 : 50);
    case_.seq_kv = 1 + Below(Happens(0.2) ? 150 : 60);
    case_.head_dim = OneOf(kDims);
    case_.head_dim_v = OneOf(kDims);
    case_.layout = OneOf(kLayouts);
  }

  void DrawOptions() {
    AttentionOptions& options = case_.options;
    options.is_causal = Happens(0.4);
    if (Happens(0.5)) options.causal_alignment = CausalAlignment::kLowerRight;
    if (Happens(0.3)) {
      Window& window = options.window.emplace();
      if (Happens(0.7)) window.left = Below(30);
      if (Happens(0.7)) window.right = Below(30);
    }
    if (Happens(0.2)) options.scale = 0.3;
    if (Happens(0.4)) options.softcap = std::exp2(static_cast<double>(Below(7)) - 1.0);
    if (Happens(0.3)) options.dropout = {0.25, generator_(), generator_()};
    options.deterministic = Happens(0.2);
    if (Happens(0.3)) case_.alibi_rank = 1 + static_cast<int>(Below(2));
    if (Happens(0.3)) {
      case_.key_lengths = true;
    } else if (Happens(0.4)) {
      case_.batch = 1;
      case_.documents = 1 + static_cast<int>(Below(6));
    }
  }

  void DrawMask() {
    constexpr MaskKind kKinds[] = {
        MaskKind::kNone,        MaskKind::kNone,   MaskKind::kBool,     MaskKind::kKeyPadding,
        MaskKind::kQueryColumn, MaskKind::kKeyRow, MaskKind::kAdditive, MaskKind::kAdditiveFloat16,
        MaskKind::kBias,        MaskKind::kBias,   MaskKind::kBias,     MaskKind::kBias};
    case_.mask_kind = OneOf(kKinds);
    case_.bias_dimensions = static_cast<unsigned>(Below(16));
  }

  std::mt19937_64 generator_;
  ProblemCase case_;
  DType dtype_ = DType::kFloat64;
};

std::string Describe(const Problem& problem) {
  const ProblemCase& c = problem.shape;
  std::ostringstream text;
  text << DTypeName(problem.dtype) << " b" << c.batch << " h" << c.heads_q << "/" << c.heads_kv
       << " s" << c.seq_q << "/" << c.seq_kv << " d" << c.head_dim << "/" << c.head_dim_v
       << " causal " << c.options.is_causal << " lower right "
       << static_cast<int>(c.options.causal_alignment) << " window " << c.options.window.has_value()
       << " softcap " << c.options.softcap.value_or(0.0) << " dropout "
       << c.options.dropout.probability << " mask " << static_cast<int>(c.mask_kind)
       << " bias dimensions " << c.bias_dimensions << " alibi " << c.alibi_rank << " lengths "
       << c.key_lengths << " documents " << c.documents << " layout " << static_cast<int>(c.layout)
       << " inputs";
  for (const auto& [name, tensor] : problem.inputs) text << " " << name;
  return text.str();
}

class DrawnTest : public testing::TestWithParam<std::tuple<Target, int>> {};

TEST_P(DrawnTest, AllOutputsOfAllOperations) {
  const auto& [target, index] = GetParam();
  const Problem problem = Draw(index).Make();
  SCOPED_TRACE(Describe(problem));
  if (!target.is_reference()) {
    const absl::Status status = RunTensors(target, Operation::kHvp, problem).status();
    if (absl::IsUnimplemented(status)) GTEST_SKIP() << status;
  }
  const Arrays expected = DenseOracle(problem);
  for (const Operation operation : kOperations) {
    const bool lacks_cotangents =
        problem.inputs.count("o_bar") == 0 && problem.inputs.count("lse_bar") == 0;
    if (lacks_cotangents && HasInput(operation, "o_bar")) continue;
    SCOPED_TRACE(OperationName(operation));
    for (const auto& [name, array] : RunArrays(target, operation, problem)) {
      const DType dtype = problem.DTypeOf(name);
      EXPECT_TRUE(Near(array, expected.at(name), AgainstOracle(target.arithmetic, dtype),
                       HalfSmallest(dtype)))
          << name;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, DrawnTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::Range(0, kCombinations)),
                         [](const testing::TestParamInfo<std::tuple<Target, int>>& info) {
                           return std::get<0>(info.param).name + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

// The sample has every option often, and every pair of options.
TEST(DrawnSampleTest, CoversEveryPairOfOptions) {
  std::map<std::string, int> counts;
  for (int index = 0; index < kCombinations; ++index) {
    const ProblemCase c = Draw(index).problem_case();
    const std::pair<const char*, bool> options[] = {
        {"causal", c.options.is_causal},
        {"lower right", c.options.causal_alignment == CausalAlignment::kLowerRight},
        {"window", c.options.window.has_value()},
        {"softcap", c.options.softcap.has_value()},
        {"dropout", c.options.dropout.probability > 0.0},
        {"alibi", c.alibi_rank > 0},
        {"lengths", c.key_lengths || c.documents > 0},
        {"bias", c.extended && c.mask_kind >= MaskKind::kKeyRow},
        {"lse_bar", c.extended},
        {"groups", c.heads_q > c.heads_kv}};
    for (const auto& [first, has_first] : options) {
      for (const auto& [second, has_second] : options) {
        counts[std::string(first) + " and " + second] += has_first && has_second;
      }
    }
  }
  for (const auto& [pair, count] : counts) EXPECT_GE(count, 8) << pair;
}

}  // namespace
}  // namespace theria::conformance
