#include "client/cli/parity/explicit_attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include "client/cli/parity/identities.h"
#include "client/cli/parity/suite.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cli/faulty_attention.h"

namespace theria::cli {
namespace {

using client::AttentionRequest;
using client::AttentionResult;
using client::DType;
using client::Operation;
using client::Tensor;
using testing::DoubleNear;
using testing::ElementsAre;
using testing::NanSensitiveDoubleEq;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One query 1 with keys 0 and log(3): P = (1/4, 3/4), and values 4 and 8.
AttentionRequest TwoKeys() {
  AttentionRequest request;
  request.q = Tensor::FromValues<double>({1.0}, {1, 1, 1, 1});
  request.k = Tensor::FromValues<double>({0.0, std::log(3.0)}, {1, 1, 2, 1});
  request.v = Tensor::FromValues<double>({4.0, 8.0}, {1, 1, 2, 1});
  return request;
}

std::vector<double> Values(const client::AnyTensor& tensor) { return tensor.local().ToDoubles(); }

TEST(ExplicitAttentionTest, ForwardAndVjpByHand) {
  AttentionRequest request = TwoKeys();
  request.o_bar = Tensor::FromValues<double>({1.0}, {1, 1, 1, 1});
  const AttentionResult result = ExactAttention(Operation::kVjp, request);
  EXPECT_THAT(Values(result.o), ElementsAre(DoubleNear(7.0, 1e-14)));
  EXPECT_THAT(Values(result.lse), ElementsAre(DoubleNear(std::log(4.0), 1e-15)));
  EXPECT_THAT(Values(result.v_bar), ElementsAre(DoubleNear(0.25, 1e-15), DoubleNear(0.75, 1e-15)));
  // S_bar = (1/4 (4 - 7), 3/4 (8 - 7)) = (-3/4, 3/4)
  EXPECT_THAT(Values(result.k_bar), ElementsAre(DoubleNear(-0.75, 1e-14), DoubleNear(0.75, 1e-14)));
  EXPECT_THAT(Values(result.q_bar), ElementsAre(DoubleNear(0.75 * std::log(3.0), 1e-14)));
}

TEST(ExplicitAttentionTest, JvpByHand) {
  AttentionRequest request = TwoKeys();
  request.k_dot = Tensor::FromValues<double>({1.0, 0.0}, {1, 1, 2, 1});
  const AttentionResult result = ExactAttention(Operation::kJvp, request);
  // S_dot = (1, 0), mu = 1/4, P_dot = (3/16, -3/16)
  EXPECT_THAT(Values(result.lse_dot), ElementsAre(DoubleNear(0.25, 1e-15)));
  EXPECT_THAT(Values(result.o_dot), ElementsAre(DoubleNear(-0.75, 1e-14)));
}

// Central differences of the VJP find any wrong term of the HVP; the adjoint ties VJP and JVP.
TEST(ExplicitAttentionTest, SatisfiesTheIdentitiesWithEveryOption) {
  FaultyAttention attention;  // without a fault
  for (const Problem& problem : Problems(Suite::kQuick)) {
    if (problem.IsIllConditioned() || problem.poison != Poison::kNone) continue;
    for (const Identity identity :
         {Identity::kAdjoint, Identity::kSymmetry, Identity::kFiniteDifferences}) {
      if (problem.only_q_tangent || problem.only_v_tangent) continue;
      const auto comparisons = CheckIdentity(attention, identity, problem, DType::kFloat64,
                                             client::Implementation::kReference, {});
      ASSERT_TRUE(comparisons.ok()) << comparisons.status();
      for (const Comparison& comparison : *comparisons) {
        EXPECT_TRUE(comparison.Held()) << problem.option_class << " " << IdentityName(identity)
                                       << " " << comparison.name << " " << comparison.Ratio();
      }
    }
  }
}

// U = (0, log 3) capped at 1: S = tanh U, and with lse_bar = 1 alone S_bar = P, U_bar = (1 - t^2)
// P.
TEST(ExplicitAttentionTest, SoftCapAndLseCotangentByHand) {
  AttentionRequest request = TwoKeys();
  request.options.softcap = 1.0;
  request.options.mask = Tensor::FromValues<double>({0.0, 0.5}, {1, 2});
  request.lse_bar = Tensor::FromValues<double>({1.0}, {1, 1, 1});
  const AttentionResult result = ExactAttention(Operation::kVjp, request);
  const double t = std::tanh(std::log(3.0));  // 4/5
  const double p = 1.0 / (1.0 + std::exp(-t - 0.5));
  EXPECT_THAT(Values(result.lse), ElementsAre(DoubleNear(std::log1p(std::exp(t + 0.5)), 1e-15)));
  EXPECT_THAT(Values(result.bias_bar), ElementsAre(DoubleNear(1 - p, 1e-15), DoubleNear(p, 1e-15)));
  EXPECT_THAT(Values(result.k_bar),
              ElementsAre(DoubleNear(1 - p, 1e-15), DoubleNear(p * (1 - t * t), 1e-15)));
  EXPECT_THAT(Values(result.v_bar), ElementsAre(0.0, 0.0));
}

TEST(ExplicitAttentionTest, RowsOfALargeFiniteMaskKeepTheirProbabilities) {
  AttentionRequest request = TwoKeys();
  request.o_bar = Tensor::FromValues<double>({1.0}, {1, 1, 1, 1});
  request.options.mask = Tensor::FromValues<double>({-1e9, -1e9}, {1, 2});
  EXPECT_THAT(Values(ExactAttention(Operation::kVjp, request).v_bar),
              ElementsAre(DoubleNear(0.25, 1e-9), DoubleNear(0.75, 1e-9)));
  request.options.mask = Tensor::FromValues<double>(
      {std::numeric_limits<double>::lowest(), std::numeric_limits<double>::lowest()}, {1, 2});
  EXPECT_THAT(Values(ExactAttention(Operation::kVjp, request).v_bar), ElementsAre(0.5, 0.5));
}

TEST(ExplicitAttentionTest, KeysThatTakeNoPartContributeNothing) {
  AttentionRequest request = TwoKeys();
  request.k = Tensor::FromValues<double>({0.0, kNaN}, {1, 1, 2, 1});
  request.v = Tensor::FromValues<double>({4.0, kInfinity}, {1, 1, 2, 1});
  request.k_dot = Tensor::FromValues<double>({1.0, kNaN}, {1, 1, 2, 1});
  request.v_dot = Tensor::FromValues<double>({1.0, -kInfinity}, {1, 1, 2, 1});
  request.o_bar = Tensor::FromValues<double>({1.0}, {1, 1, 1, 1});
  request.options.is_causal = true;
  const AttentionResult result = ExactAttention(Operation::kHvp, request);
  EXPECT_THAT(Values(result.o), ElementsAre(4.0));
  EXPECT_THAT(Values(result.o_dot), ElementsAre(1.0));
  EXPECT_THAT(Values(result.v_bar), ElementsAre(1.0, 0.0));
  EXPECT_THAT(Values(result.k_bar_dot), ElementsAre(0.0, 0.0));
}

TEST(ExplicitAttentionTest, NaNThatTakesPartGoesWhereTheFormulasTakeIt) {
  AttentionRequest request = TwoKeys();
  request.v = Tensor::FromValues<double>({kNaN, 8.0}, {1, 1, 2, 1});
  request.o_bar = Tensor::FromValues<double>({1.0}, {1, 1, 1, 1});
  const AttentionResult result = ExactAttention(Operation::kVjp, request);
  EXPECT_THAT(Values(result.o), ElementsAre(NanSensitiveDoubleEq(kNaN)));
  EXPECT_THAT(Values(result.q_bar), ElementsAre(NanSensitiveDoubleEq(kNaN)));
  EXPECT_THAT(Values(result.k_bar),
              ElementsAre(NanSensitiveDoubleEq(kNaN), NanSensitiveDoubleEq(kNaN)));
  EXPECT_THAT(Values(result.v_bar), ElementsAre(DoubleNear(0.25, 1e-15), DoubleNear(0.75, 1e-15)));
}

TEST(ExplicitAttentionTest, RowsWithoutKeysAreZero) {
  AttentionRequest request = TwoKeys();
  request.q = Tensor::FromValues<double>({kNaN}, {1, 1, 1, 1});
  request.o_bar = Tensor::FromValues<double>({kNaN}, {1, 1, 1, 1});
  request.options.mask = Tensor::FromDoubles(DType::kBool, {0.0, 0.0}, {2});
  const AttentionResult result = ExactAttention(Operation::kHvp, request);
  EXPECT_THAT(Values(result.lse), ElementsAre(-kInfinity));
  for (const client::OutputField& field : client::kOutputFields) {
    if (field.name == "lse" || field.name.starts_with("bias")) continue;
    EXPECT_THAT(Values(result.*field.member), testing::Each(0.0)) << field.name;
  }
}

TEST(ExplicitAttentionTest, TheSameDTypeLosesWhatItsRoundingLoses) {
  const Problem problem = {.magnitude = 30.0};
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const AttentionRequest request = MakeRequest(problem, Operation::kVjp, dtype);
    const AttentionResult exact = ExactAttention(Operation::kVjp, request);
    const double u = UnitRoundoff(dtype, client::Precision::kStrict);
    const double score_u = dtype == DType::kFloat64 ? u : std::ldexp(1.0, -24);
    for (const SumOrder order : kSumOrders) {
      const AttentionResult rounded = SameDTypeAttention(Operation::kVjp, request, order);
      EXPECT_EQ(rounded.o.local().dtype(), dtype);
      EXPECT_EQ(rounded.lse.local().dtype(), client::StatisticsDType(dtype));
      const double error = CompareTensors("o", rounded.o, exact.o.local(), dtype, {}).norm_error;
      EXPECT_GT(error, 0.01 * u) << client::DTypeName(dtype);
      EXPECT_LT(error, u + 900 * 16 * score_u) << client::DTypeName(dtype);
    }
  }
}

}  // namespace
}  // namespace theria::cli
