#ifndef THERIA_TESTS_CONFORMANCE_CONFORMANCE_TEST_H_
#define THERIA_TESTS_CONFORMANCE_CONFORMANCE_TEST_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "tests/conformance/target.h"
#include "tests/conformance/tolerances.h"

// Fixtures of the suite: a test is run for each target, or for each target and problem.

namespace theria::conformance {

inline constexpr Operation kOperations[] = {Operation::kForward, Operation::kVjp, Operation::kJvp,
                                            Operation::kHvp};
inline constexpr DType kDTypes[] = {DType::kFloat64, DType::kFloat32, DType::kFloat16,
                                    DType::kBFloat16};

class TargetTest : public testing::TestWithParam<Target> {
 protected:
  const Target& target() const { return GetParam(); }
};

class ProblemTest : public testing::TestWithParam<std::tuple<Target, ProblemCase>> {
 protected:
  // The reference computes everything. Fused kernels need serve heads of up to 256 only; those of
  // wider ones they must refuse by name. What was added to the first contract a backend may refuse
  // as a whole.
  void SetUp() override {
    constexpr std::int64_t kWidestOfAll = 256;
    const bool is_wide =
        std::max(problem_case().head_dim, problem_case().head_dim_v) > kWidestOfAll;
    if (target().is_reference() || (!is_wide && !NeedsExtension(problem_case()))) return;
    for (const DType dtype : {DType::kFloat32, DType::kFloat64}) {
      const Problem problem = MakeProblem(problem_case(), dtype);
      const absl::Status status = RunTensors(target(), Operation::kHvp, problem).status();
      if (!absl::IsUnimplemented(status)) continue;
      if (is_wide) {
        EXPECT_NE(status.message().find("head_dim"), std::string::npos) << status;
      }
      GTEST_SKIP() << status;
    }
  }
  const Target& target() const { return std::get<0>(GetParam()); }
  const ProblemCase& problem_case() const { return std::get<1>(GetParam()); }
};

inline std::string TargetTestName(const testing::TestParamInfo<Target>& info) {
  return info.param.name;
}
inline std::string ProblemTestName(
    const testing::TestParamInfo<std::tuple<Target, ProblemCase>>& info) {
  return std::get<0>(info.param).name + "_" + std::get<1>(info.param).name;
}

// Compares element by element; infinities must be equal, NaN is never right.
inline testing::AssertionResult Near(const Array& actual, const Array& expected,
                                     const Tolerance& tolerance, double floor = 0.0) {
  if (actual.shape != expected.shape) return testing::AssertionFailure() << "shapes differ";
  const double largest = std::max(1.0, MaxAbs(expected));
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    const double x = actual.values[i];
    const double y = expected.values[i];
    const double allowed =
        tolerance.relative * std::abs(y) + tolerance.of_largest * largest + floor;
    const bool passes = std::isinf(y) ? x == y : std::abs(x - y) <= allowed;
    if (!passes) {
      return testing::AssertionFailure()
             << "element " << i << " is " << x << ", expected " << y << " within " << allowed
             << " (off by " << std::abs(x - y) << ")";
    }
  }
  return testing::AssertionSuccess();
}

inline void ExpectNear(const Arrays& actual, const Arrays& expected, const Tolerance& tolerance) {
  for (const auto& [name, array] : actual) {
    EXPECT_TRUE(Near(array, expected.at(name), tolerance)) << name;
  }
}

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_CONFORMANCE_TEST_H_
