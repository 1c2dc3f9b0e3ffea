#include "client/cli/parity/problem.h"

#include <cmath>
#include <set>
#include <string>
#include <utility>
#include <vector>

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
      const bool saved = field.name == "o" || field.name == "lse";
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

TEST(ProblemTest, SuitesCoverTheContractAndNamesAreUnique) {
  const std::vector<Problem> full = Problems(Suite::kFull);
  EXPECT_GT(full.size(), 2 * Problems(Suite::kQuick).size());
  std::set<std::string> names;
  for (const Problem& problem : full) {
    const std::string name = problem.option_class + problem.Sizes() +
                             (problem.only_q_tangent ? "q" : "") +
                             (problem.only_v_tangent ? "v" : "");
    EXPECT_TRUE(names.insert(name).second) << name;
    EXPECT_EQ(problem.heads_q % problem.heads_kv, 0) << name;
  }
}

}  // namespace
}  // namespace theria::cli
