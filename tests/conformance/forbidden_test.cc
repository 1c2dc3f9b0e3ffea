// Rows and keys that the mask forbids: o = 0, lse = -inf, zero derivatives, never NaN, whatever
// finite numbers stand there.

#include <limits>

#include "tests/conformance/conformance_test.h"

namespace theria::conformance {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class ForbiddenTest : public TargetTest {
 protected:
  // Random q, k, v and so on, and a mask that lets only rows below `seq_q / 2` see keys below
  // `seq_kv / 2`.
  Problem HalfForbidden(bool additive, DType dtype) {
    ProblemCase c = CaseNamed("more_keys");
    c.mask_kind = MaskKind::kBool;
    Problem problem = MakeProblem(c, dtype);
    Array mask = Zeros({c.seq_q, c.seq_kv});
    for (std::int64_t i = 0; i < c.seq_q; ++i) {
      for (std::int64_t j = 0; j < c.seq_kv; ++j) {
        const bool sees = i < c.seq_q / 2 && j < c.seq_kv / 2;
        mask.values[i * c.seq_kv + j] = additive ? (sees ? 0.0 : -kInfinity) : sees;
      }
    }
    problem.mask = additive ? Encode(mask, dtype, Layout::kRowMajor) : EncodeBool(mask);
    return problem;
  }

  // Sets the rows of all inputs from `first` half on to `value`.
  static void FillForbidden(double value, Problem& problem) {
    for (const auto& [name, array] : problem.Values()) {
      Array filled = array;
      const std::int64_t rows = array.shape[2];
      for (std::size_t i = 0; i < filled.values.size(); ++i) {
        const std::int64_t row = static_cast<std::int64_t>(i) / array.shape[3] % rows;
        if (row >= rows / 2) filled.values[i] = value;
      }
      problem.Set(name, filled);
    }
  }
};

TEST_P(ForbiddenTest, RowsWithoutKeysAreZero) {
  for (const bool additive : {false, true}) {
    for (const DType dtype : kDTypes) {
      const Problem problem = HalfForbidden(additive, dtype);
      for (const auto& [name, array] : RunArrays(target(), Operation::kHvp, problem)) {
        const std::int64_t rows = array.shape[2];
        const std::int64_t width = array.shape.size() == 4 ? array.shape[3] : 1;
        double allowed = 0.0;
        for (std::size_t i = 0; i < array.values.size(); ++i) {
          const bool forbidden = static_cast<std::int64_t>(i) / width % rows >= rows / 2;
          const double expected = name == "lse" ? -kInfinity : 0.0;
          if (forbidden) {
            ASSERT_EQ(array.values[i], expected) << name << " " << i;
          } else {
            ASSERT_TRUE(std::isfinite(array.values[i])) << name << " " << i;
            allowed = std::max(allowed, std::abs(array.values[i]));
          }
        }
        EXPECT_GT(allowed, 0.0) << name;
      }
    }
  }
}

TEST_P(ForbiddenTest, WhatIsForbiddenDoesNotMatter) {
  for (const bool additive : {false, true}) {
    const Problem problem = HalfForbidden(additive, DType::kFloat64);
    const auto expected = RunTensors(target(), Operation::kHvp, problem);
    ASSERT_TRUE(expected.ok()) << expected.status();
    // 1e200: the products overflow.
    for (const double value : {-3.0, 1e30, 1e200, -1e200}) {
      Problem filled = problem;
      FillForbidden(value, filled);
      const auto actual = RunTensors(target(), Operation::kHvp, filled);
      ASSERT_TRUE(actual.ok()) << actual.status();
      for (const auto& [name, tensor] : *actual) {
        EXPECT_EQ(tensor.bytes, expected->at(name).bytes) << name << " with " << value;
      }
    }
  }
}

TEST_P(ForbiddenTest, AllKeysForbidden) {
  ProblemCase c = CaseNamed("grouped");
  c.mask_kind = MaskKind::kBool;
  Problem problem = MakeProblem(c, DType::kFloat32);
  problem.mask = EncodeBool(Zeros({1}));
  for (const Operation operation : kOperations) {
    for (const auto& [name, array] : RunArrays(target(), operation, problem)) {
      for (const double value : array.values) {
        ASSERT_EQ(value, name == "lse" ? -kInfinity : 0.0)
            << OperationName(operation) << " " << name;
      }
    }
  }
}

TEST_P(ForbiddenTest, LargeScoresStayExact) {
  // Scores of 1e6 apart: the softmax picks one key, without overflow on the way.
  Problem problem = MakeProblem(CaseNamed("small"), DType::kFloat64);
  Arrays values = problem.Values();
  problem.Set("q", Combine(1e3, values.at("q"), 0.0, values.at("q")));
  problem.Set("k", Combine(1e3, values.at("k"), 0.0, values.at("k")));
  for (const Operation operation : kOperations) {
    for (const auto& [name, array] : RunArrays(target(), operation, problem)) {
      for (const double value : array.values) ASSERT_TRUE(std::isfinite(value)) << name;
    }
  }
}

TEST_P(ForbiddenTest, NanInOneRowStaysThere) {
  Problem problem = MakeProblem(CaseNamed("square"), DType::kFloat32);
  const Arrays clean = RunArrays(target(), Operation::kForward, problem);
  Array q = problem.Values().at("q");
  q.values[5] = std::numeric_limits<double>::quiet_NaN();  // batch 0, head 0, row 0
  problem.Set("q", q);
  const Arrays dirty = RunArrays(target(), Operation::kForward, problem);
  const std::size_t width = 16;
  for (std::size_t i = 0; i < clean.at("o").values.size(); ++i) {
    if (i < width) {
      EXPECT_TRUE(std::isnan(dirty.at("o").values[i]));
    } else {
      EXPECT_EQ(dirty.at("o").values[i], clean.at("o").values[i]);
    }
  }
  EXPECT_TRUE(std::isnan(dirty.at("lse").values[0]));
}

INSTANTIATE_TEST_SUITE_P(Conformance, ForbiddenTest, testing::ValuesIn(Targets()), TargetTestName);

}  // namespace
}  // namespace theria::conformance
