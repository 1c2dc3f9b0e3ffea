#include "client/cli/parity/poison.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "client/cli/parity/suite.h"
#include "gtest/gtest.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::DType;
using client::Operation;

// The rows of a tensor [1, 1, rows, dim] whose elements are not all finite.
std::vector<int> PoisonedRows(const client::AnyTensor& tensor) {
  const std::vector<double> values = tensor.local().ToDoubles();
  const auto columns = static_cast<std::size_t>(tensor.local().shape()[3]);
  std::vector<int> rows;
  for (std::size_t n = 0; n < values.size(); ++n) {
    const int row = static_cast<int>(n / columns);
    if (!std::isfinite(values[n]) && (rows.empty() || rows.back() != row)) rows.push_back(row);
  }
  return rows;
}

TEST(PoisonTest, UnseenIsEveryKeyAndRowThatTakesNoPart) {
  const Problem problem = {.heads_q = 1,
                           .heads_kv = 1,
                           .seq_q = 4,
                           .seq_kv = 9,
                           .options = {.window = client::Window{.left = 1, .right = 0}},
                           .mask = MaskKind::kRows,
                           .poison = Poison::kUnseen};
  // Rows 0, 2 and 3 see keys 0, 1 to 2 and 2 to 3; row 1 is masked.
  const AttentionRequest request = MakeRequest(problem, Operation::kHvp, DType::kFloat16);
  for (const auto member : {&AttentionRequest::q, &AttentionRequest::o_bar,
                            &AttentionRequest::q_dot, &AttentionRequest::o_bar_dot}) {
    EXPECT_EQ(PoisonedRows(request.*member), std::vector<int>{1});
  }
  for (const auto member : {&AttentionRequest::k, &AttentionRequest::v, &AttentionRequest::k_dot,
                            &AttentionRequest::v_dot}) {
    EXPECT_EQ(PoisonedRows(request.*member), (std::vector<int>{4, 5, 6, 7, 8}));
  }
}

TEST(PoisonTest, EveryUnseenProblemHasPoison) {
  for (const Problem& problem : Problems(Suite::kFull)) {
    if (problem.poison != Poison::kUnseen) continue;
    const AttentionRequest request = MakeRequest(problem, Operation::kForward, DType::kFloat32);
    EXPECT_FALSE(PoisonedRows(request.q).empty() && PoisonedRows(request.v).empty())
        << problem.option_class;
  }
}

TEST(PoisonTest, SeenIsOneNaN) {
  const Problem problem = {.poison = Poison::kSeen, .poisoned = "k_dot"};
  const AttentionRequest request = MakeRequest(problem, Operation::kJvp, DType::kFloat32);
  const std::vector<double> values = request.k_dot.local().ToDoubles();
  EXPECT_EQ(std::count_if(values.begin(), values.end(), [](double x) { return std::isnan(x); }), 1);
  EXPECT_TRUE(PoisonedRows(request.k).empty());
}

}  // namespace
}  // namespace theria::cli
