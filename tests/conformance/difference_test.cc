// Derivatives against central differences of what they are derivatives of, in float64.

#include "tests/conformance/conformance_test.h"

namespace theria::conformance {
namespace {

std::vector<ProblemCase> DifferentiableCases() {
  std::vector<ProblemCase> cases;
  for (const ProblemCase& c : ProblemCases()) {
    const bool is_curved = c.name == "scale_peaked" || c.name == "softcap_strong";
    if (!is_curved) cases.push_back(c);  // those are too curved for the step
  }
  return cases;
}

class DifferenceTest : public ProblemTest {
 protected:
  const Problem problem_ = MakeProblem(problem_case(), DType::kFloat64);
  const Arrays values_ = problem_.Values();
  Arrays tangents_ = {{"q", values_.at("q_dot")},
                      {"k", values_.at("k_dot")},
                      {"v", values_.at("v_dot")},
                      {"o_bar", values_.at("o_bar_dot")}};

  void SetUp() override {
    ProblemTest::SetUp();
    if (problem_.shape.extended) tangents_["lse_bar"] = values_.at("lse_bar_dot");
    if (problem_.has_bias()) tangents_["bias"] = values_.at("bias_dot");
  }

  // The outputs of `operation` at inputs + step * tangents_.
  Arrays At(Operation operation, double step, const OutputNames& outputs) {
    Problem moved = problem_;
    for (const auto& [name, tangent] : tangents_) {
      if (name == "bias") {
        const Array mask = Combine(1.0, Decode(*problem_.mask), step, tangent);
        moved.mask = Encode(mask, problem_.mask->dtype, Layout::kRowMajor);
      } else {
        moved.Set(name, Combine(1.0, values_.at(name), step, tangent));
      }
    }
    return RunArrays(target(), operation, moved, outputs);
  }

  // The derivative along tangents_: (8 (f(h) - f(-h)) - (f(2h) - f(-2h))) / 12h.
  Arrays Difference(Operation operation, const OutputNames& outputs) {
    constexpr double kStep = kDifferenceStep;
    Arrays result;
    const Arrays near_ahead = At(operation, kStep, outputs);
    const Arrays near_behind = At(operation, -kStep, outputs);
    const Arrays far_ahead = At(operation, 2 * kStep, outputs);
    const Arrays far_behind = At(operation, -2 * kStep, outputs);
    for (const std::string& name : outputs) {
      const Array near = Combine(1.0, near_ahead.at(name), -1.0, near_behind.at(name));
      const Array far = Combine(1.0, far_ahead.at(name), -1.0, far_behind.at(name));
      Array difference = Combine(8.0 / (12 * kStep), near, -1.0 / (12 * kStep), far);
      // Where a row sees no key, lse stays -inf, whose tangent is 0.
      for (double& value : difference.values) value = std::isnan(value) ? 0.0 : value;
      result[name + "_dot"] = std::move(difference);
    }
    return result;
  }
};

TEST_P(DifferenceTest, JvpIsTheDerivativeOfForward) {
  const Arrays jvp = RunArrays(target(), Operation::kJvp, problem_, {"o_dot", "lse_dot"});
  ExpectNear(jvp, Difference(Operation::kForward, {"o", "lse"}), kAgainstDifferences);
}

TEST_P(DifferenceTest, HvpIsTheDerivativeOfVjp) {
  OutputNames cotangents = {"q_bar", "k_bar", "v_bar"};
  if (problem_.has_bias()) cotangents.push_back("bias_bar");
  OutputNames tangents;
  for (const std::string& name : cotangents) tangents.push_back(name + "_dot");
  ExpectNear(RunArrays(target(), Operation::kHvp, problem_, tangents),
             Difference(Operation::kVjp, cotangents), kAgainstDifferences);
}

TEST_P(DifferenceTest, VjpIsTheGradientOfForward) {
  const Arrays vjp = RunArrays(target(), Operation::kVjp, problem_);
  const Array& o_bar = values_.at("o_bar");
  for (const std::string moving : {"q", "k", "v", "bias"}) {
    if (tangents_.count(moving) == 0) continue;
    for (auto& [name, tangent] : tangents_) {
      tangent = name == moving ? values_.at(name + "_dot") : Zeros(tangent.shape);
    }
    const Arrays dots = Difference(Operation::kForward, {"o", "lse"});
    const Array& o_dot = dots.at("o_dot");
    double of_lse = 0.0;
    if (problem_.shape.extended) of_lse = InnerProduct(values_.at("lse_bar"), dots.at("lse_dot"));
    const double actual = InnerProduct(vjp.at(moving + "_bar"), tangents_.at(moving));
    // o_dot vanishes where there is one key only; its rounding errors do not.
    const double largest = std::max(MaxAbs(o_dot), MaxAbs(tangents_.at(moving)));
    const double size = static_cast<double>(o_bar.values.size()) * MaxAbs(o_bar) * largest;
    EXPECT_NEAR(actual, InnerProduct(o_bar, o_dot) + of_lse, kAgainstDifferences.of_largest * size)
        << moving;
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, DifferenceTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::ValuesIn(DifferentiableCases())),
                         ProblemTestName);

}  // namespace
}  // namespace theria::conformance
