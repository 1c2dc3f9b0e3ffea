#include "client/cli/parity/score_rules.h"

#include <limits>
#include <string>

#include "gtest/gtest.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::DType;
using client::Tensor;

AttentionRequest Request(std::int64_t heads_q, std::int64_t heads_kv, std::int64_t seq_q,
                         std::int64_t seq_kv) {
  AttentionRequest request;
  request.q = Tensor::Zeros(DType::kFloat32, {1, heads_q, seq_q, 16});
  request.k = Tensor::Zeros(DType::kFloat32, {1, heads_kv, seq_kv, 16});
  return request;
}

// A row of head 0: 'x' where the key takes part.
std::string Row(const AttentionRequest& request, std::int64_t i) {
  const ScoreRules rules(request);
  std::string row;
  for (std::int64_t j = 0; j < request.k.local().shape()[2]; ++j) {
    row += rules.TakesPart(0, 0, i, j) ? 'x' : '.';
  }
  return row;
}

TEST(ScoreRulesTest, CausalIsAlignedAtTheTopLeft) {
  AttentionRequest request = Request(1, 1, 3, 5);
  EXPECT_EQ(Row(request, 1), "xxxxx");
  request.options.is_causal = true;
  EXPECT_EQ(Row(request, 0), "x....");
  EXPECT_EQ(Row(request, 2), "xxx..");
}

TEST(ScoreRulesTest, WindowSidesAreInclusiveAndOptional) {
  AttentionRequest request = Request(1, 1, 8, 8);
  request.options.window = client::Window{.left = 2, .right = 1};
  EXPECT_EQ(Row(request, 4), "..xxxx..");
  EXPECT_EQ(Row(request, 0), "xx......");
  request.options.window = client::Window{.left = 2};
  EXPECT_EQ(Row(request, 4), "..xxxxxx");
  request.options.is_causal = true;
  EXPECT_EQ(Row(request, 4), "..xxx...");
}

TEST(ScoreRulesTest, LowerRightMovesCausalAndWindow) {
  AttentionRequest request = Request(1, 1, 3, 5);
  request.options.is_causal = true;
  request.options.causal_alignment = client::CausalAlignment::kLowerRight;
  EXPECT_EQ(Row(request, 0), "xxx..");
  EXPECT_EQ(Row(request, 2), "xxxxx");
  request.options.window = client::Window{.left = 1};
  EXPECT_EQ(Row(request, 0), ".xx..");
  request = Request(1, 1, 5, 3);
  request.options.is_causal = true;
  request.options.causal_alignment = client::CausalAlignment::kLowerRight;
  EXPECT_EQ(Row(request, 1), "...");
  EXPECT_EQ(Row(request, 2), "x..");
}

TEST(ScoreRulesTest, LengthsCutKeysAndDocumentsCountForThemselves) {
  AttentionRequest request = Request(1, 1, 4, 5);
  request.options.kv_lengths = Tensor::FromValues<std::int32_t>({3}, {1});
  EXPECT_EQ(Row(request, 0), "xxx..");
  request.options.kv_lengths = {};
  request.options.cu_seqlens_q = Tensor::FromValues<std::int32_t>({0, 1, 1, 4}, {4});
  request.options.cu_seqlens_kv = Tensor::FromValues<std::int32_t>({0, 2, 3, 5}, {4});
  EXPECT_EQ(Row(request, 0), "xx...");
  EXPECT_EQ(Row(request, 1), "...xx");
  request.options.is_causal = true;
  EXPECT_EQ(Row(request, 1), "...x.");
  request.options.causal_alignment = client::CausalAlignment::kLowerRight;
  EXPECT_EQ(Row(request, 1), ".....");
  EXPECT_EQ(Row(request, 2), "...x.");
  request.options.alibi_slopes = Tensor::FromValues<double>({0.5}, {1});
  EXPECT_EQ(ScoreRules(request).Bias(0, 0, 3, 3), -0.5);
}

TEST(ScoreRulesTest, MasksForbidByFalseAndByMinusInfinity) {
  AttentionRequest request = Request(1, 1, 2, 3);
  request.options.mask = Tensor::FromDoubles(DType::kBool, {1.0, 0.0, 1.0}, {3});
  EXPECT_EQ(Row(request, 1), "x.x");
  EXPECT_EQ(ScoreRules(request).Bias(0, 0, 1, 2), 0.0);
  request.options.mask = Tensor::FromValues<double>(
      {0.5, -std::numeric_limits<double>::infinity(), -1e9}, {1, 1, 1, 3});
  EXPECT_EQ(Row(request, 1), "x.x");
  EXPECT_EQ(ScoreRules(request).Bias(0, 0, 1, 0), 0.5);
  EXPECT_EQ(ScoreRules(request).Bias(0, 0, 1, 2), -1e9);
}

TEST(ScoreRulesTest, GroupsAreNeighboursAndScaleHasADefault) {
  AttentionRequest request = Request(4, 2, 2, 2);
  EXPECT_EQ(ScoreRules(request).KeyHead(1), 0);
  EXPECT_EQ(ScoreRules(request).KeyHead(2), 1);
  EXPECT_EQ(ScoreRules(request).scale(), 0.25);
  request.options.scale = -3.0;
  EXPECT_EQ(ScoreRules(request).scale(), -3.0);
}

}  // namespace
}  // namespace theria::cli
