#include "client/cli/parity/problem.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "client/cli/parity/suite.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::DType;
using client::Operation;

const Problem& Find(const std::vector<Problem>& problems, const std::string& option_class) {
  for (const Problem& problem : problems) {
    if (problem.option_class == option_class) return problem;
  }
  ADD_FAILURE() << option_class;
  return problems[0];
}

TEST(ProblemTest, RequestsHoldWhatTheOperationReads) {
  for (const Operation operation :
       {Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp}) {
    const AttentionRequest request =
        MakeRequest(Problems(Suite::kQuick)[0], operation, DType::kFloat32);
    for (const client::InputField& field : client::kInputFields) {
      const bool saved = field.name == "o" || field.name == "lse" ||
                         field.name.starts_with("lse_bar") || field.name == "bias_dot";
      EXPECT_EQ((request.*field.member).has_value(), Reads(operation, field.name) && !saved)
          << client::OperationName(operation) << " " << field.name;
    }
  }
}

TEST(ProblemTest, OperationsOfOneProblemShareTheirPoint) {
  const Problem problem = Problems(Suite::kQuick)[0];
  const AttentionRequest forward = MakeRequest(problem, Operation::kForward, DType::kFloat64);
  const AttentionRequest hvp = MakeRequest(problem, Operation::kHvp, DType::kFloat64);
  const AttentionRequest other = MakeRequest(problem, Operation::kHvp, DType::kFloat64, 1);
  EXPECT_EQ(forward.v.local().ToDoubles(), hvp.v.local().ToDoubles());
  EXPECT_NE(hvp.v.local().ToDoubles(), other.v.local().ToDoubles());
}

TEST(ProblemTest, WideningIsExact) {
  const Problem problem = Find(Problems(Suite::kQuick), "all at once");
  const AttentionRequest request = MakeRequest(problem, Operation::kHvp, DType::kBFloat16);
  const AttentionRequest wide = Widened(request);
  EXPECT_EQ(wide.k_dot.local().dtype(), DType::kFloat64);
  EXPECT_EQ(wide.k_dot.local().ToDoubles(), request.k_dot.local().ToDoubles());
  EXPECT_EQ(wide.options.mask.local().dtype(), DType::kFloat64);
  EXPECT_EQ(wide.options.mask.local().ToDoubles(), request.options.mask.local().ToDoubles());
}

TEST(ProblemTest, LayoutsAreWhatTheySay) {
  const std::vector<Problem> problems = Problems(Suite::kQuick);
  const AttentionRequest strided =
      MakeRequest(Find(problems, "strides"), Operation::kForward, DType::kFloat32);
  EXPECT_FALSE(strided.q.local().is_row_major());
  const AttentionRequest broadcast =
      MakeRequest(Find(problems, "broadcast"), Operation::kForward, DType::kFloat32);
  EXPECT_EQ(broadcast.q.local().strides()[0], 0);
}

TEST(ProblemTest, MasksLeaveARowEmptyOnlyWhereMeant) {
  const std::vector<Problem> problems = Problems(Suite::kQuick);
  for (const char* name : {"bool mask", "additive mask"}) {
    const Problem& problem = Find(problems, name);
    const client::Tensor mask =
        MakeRequest(problem, Operation::kForward, DType::kFloat32).options.mask.local();
    const std::vector<double> values = mask.ToDoubles();
    int forbidden = 0;
    for (std::size_t row = 0; row < values.size(); row += problem.seq_kv) {
      int seen = 0;
      for (std::int64_t j = 0; j < problem.seq_kv; ++j) {
        const double value = values[row + j];
        const bool sees = mask.dtype() == DType::kBool ? value != 0.0 : std::isfinite(value);
        sees ? ++seen : ++forbidden;
      }
      EXPECT_GT(seen, 0) << name;
    }
    EXPECT_GT(forbidden, 0) << name;
  }
}

double LargestOf(const client::AnyTensor& tensor) {
  double largest = 0.0;
  for (const double value : tensor.local().ToDoubles()) {
    largest = std::max(largest, std::fabs(value));
  }
  return largest;
}

TEST(ProblemTest, MagnitudeIsOfQAndKAndTiesAreSigns) {
  const Problem problem = Find(Problems(Suite::kQuick), "tied scores 130^2");
  const AttentionRequest request = MakeRequest(problem, Operation::kHvp, DType::kBFloat16);
  for (const double value : request.q.local().ToDoubles()) EXPECT_EQ(std::fabs(value), 130.0);
  EXPECT_LT(LargestOf(request.k_dot), 0.1);
  EXPECT_LT(LargestOf(request.v), 10.0);
}

TEST(ProblemTest, FilledMasksAreFiniteAndReachTheEndOfTheDType) {
  const std::vector<Problem> problems = Problems(Suite::kFull);
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    for (const char* name : {"half of keys", "rows", "left padding"}) {
      const Problem& lowest = Find(problems, std::string(name) + " lowest");
      const client::Tensor mask =
          MakeRequest(lowest, Operation::kForward, dtype).options.mask.local();
      EXPECT_EQ(mask.dtype(), dtype);
      const double end = LargestOf(mask);
      EXPECT_TRUE(std::isfinite(end)) << name << client::DTypeName(dtype);
      const double beyond = end * 1.01;
      EXPECT_FALSE(std::isfinite(
          client::Tensor::FromValues<double>({beyond}, {1}).Cast(dtype).ToDoubles()[0]))
          << name << client::DTypeName(dtype);
      const Problem& billion = Find(problems, std::string(name) + " -1e9");
      EXPECT_NEAR(LargestOf(MakeRequest(billion, Operation::kForward, dtype).options.mask), 1e9,
                  4e6);
    }
  }
}

}  // namespace
}  // namespace theria::cli
