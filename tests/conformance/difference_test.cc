// Derivatives against central differences of what they are derivatives of, in float64.

#include "tests/conformance/conformance_test.h"

namespace theria::conformance {
namespace {

std::vector<ProblemCase> DifferentiableCases() {
  std::vector<ProblemCase> cases;
  for (const ProblemCase& c : ProblemCases()) {
    if (c.name != "scale_peaked") cases.push_back(c);  // too curved for the step
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

  // The outputs of `operation` at inputs + step * tangents_.
  Arrays At(Operation operation, double step, const OutputNames& outputs) {
    Problem moved = problem_;
    for (const auto& [name, tangent] : tangents_) {
      moved.Set(name, Combine(1.0, values_.at(name), step, tangent));
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
      result[name + "_dot"] = Combine(8.0 / (12 * kStep), near, -1.0 / (12 * kStep), far);
    }
    return result;
  }
};

TEST_P(DifferenceTest, JvpIsTheDerivativeOfForward) {
  const Arrays jvp = RunArrays(target(), Operation::kJvp, problem_, {"o_dot"});
  ExpectNear(jvp, Difference(Operation::kForward, {"o"}), kAgainstDifferences);
}

TEST_P(DifferenceTest, HvpIsTheDerivativeOfVjp) {
  const Arrays hvp =
      RunArrays(target(), Operation::kHvp, problem_, {"q_bar_dot", "k_bar_dot", "v_bar_dot"});
  ExpectNear(hvp, Difference(Operation::kVjp, {"q_bar", "k_bar", "v_bar"}), kAgainstDifferences);
}

TEST_P(DifferenceTest, VjpIsTheGradientOfForward) {
  const Arrays vjp = RunArrays(target(), Operation::kVjp, problem_);
  const Array& o_bar = values_.at("o_bar");
  for (const std::string moving : {"q", "k", "v"}) {
    for (auto& [name, tangent] : tangents_) {
      tangent = name == moving ? values_.at(name + "_dot") : Zeros(values_.at(name).shape);
    }
    const Array o_dot = Difference(Operation::kForward, {"o"}).at("o_dot");
    const double actual = InnerProduct(vjp.at(moving + "_bar"), tangents_.at(moving));
    // o_dot vanishes where there is one key only; its rounding errors do not.
    const double largest = std::max(MaxAbs(o_dot), MaxAbs(tangents_.at(moving)));
    const double size = static_cast<double>(o_bar.values.size()) * MaxAbs(o_bar) * largest;
    EXPECT_NEAR(actual, InnerProduct(o_bar, o_dot), kAgainstDifferences.of_largest * size)
        << moving;
  }
}

INSTANTIATE_TEST_SUITE_P(Conformance, DifferenceTest,
                         testing::Combine(testing::ValuesIn(Targets()),
                                          testing::ValuesIn(DifferentiableCases())),
                         ProblemTestName);

}  // namespace
}  // namespace theria::conformance
