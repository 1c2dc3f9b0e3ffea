#include "client/cli/parity/compare.h"

#include <cmath>
#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::cli {
namespace {

using client::DType;
using client::Tensor;
using testing::HasSubstr;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Tolerance kTolerance = {.norm = 1e-3, .max = 1e-2};

Tensor Doubles(const std::vector<double>& values) {
  return Tensor::FromValues(values, {static_cast<std::int64_t>(values.size())});
}

Comparison Compare(const std::vector<double>& actual, const std::vector<double>& reference) {
  return CompareTensors("x", Doubles(actual), Doubles(reference), DType::kFloat64, kTolerance);
}

TEST(CompareTensorsTest, MeasuresNormAndMaximum) {
  const Comparison comparison = Compare({3.0, 4.05}, {3.0, 4.0});
  EXPECT_NEAR(comparison.norm_error, 0.01, 1e-12);
  EXPECT_NEAR(comparison.max_error, 0.0125, 1e-12);
  EXPECT_NEAR(comparison.Ratio(), 10.0, 1e-9);
  EXPECT_FALSE(comparison.Held());
}

TEST(CompareTensorsTest, EachMeasureAloneCanFail) {
  // One element of many: small in norm, large at that element.
  std::vector<double> reference(100000, 1.0);
  std::vector<double> actual = reference;
  actual[7] = 1.05;
  const Comparison spike = Compare(actual, reference);
  EXPECT_LT(spike.norm_error, kTolerance.norm);
  EXPECT_FALSE(spike.Held());
  // All a little: small everywhere, large in norm.
  for (double& value : actual) value = 1.005;
  const Comparison drift = Compare(actual, reference);
  EXPECT_LT(drift.max_error, kTolerance.max);
  EXPECT_FALSE(drift.Held());
}

TEST(CompareTensorsTest, TheFloorHoldsWhereTheExactResultVanishes) {
  EXPECT_TRUE(Compare({1e-6, 0.0}, {0.0, 0.0}).Held());
  EXPECT_FALSE(Compare({1e-2, 0.0}, {0.0, 0.0}).Held());
}

TEST(CompareTensorsTest, InfinitiesMustBeEqual) {
  EXPECT_TRUE(Compare({-kInfinity, 1.0}, {-kInfinity, 1.0}).Held());
  EXPECT_FALSE(Compare({kInfinity, 1.0}, {-kInfinity, 1.0}).Held());
  EXPECT_FALSE(Compare({-kInfinity, 1.0}, {0.0, 1.0}).Held());
  EXPECT_FALSE(Compare({0.0, 1.0}, {-kInfinity, 1.0}).Held());
}

TEST(CompareTensorsTest, ASpreadNaNIsAViolation) {
  const Comparison comparison = Compare({1.0, std::nan("")}, {1.0, 1.0});
  EXPECT_EQ(comparison.Ratio(), kInfinity);
  EXPECT_THAT(comparison.violation, HasSubstr("nan at element 1"));
}

TEST(CompareTensorsTest, NaNMustBeWhereTheReferenceHasIt) {
  EXPECT_TRUE(Compare({1.0, std::nan("")}, {1.0, std::nan("")}).Held());
  EXPECT_THAT(Compare({1.0, 0.0}, {1.0, std::nan("")}).violation,
              HasSubstr("is 0 at element 1, must be nan"));
  EXPECT_FALSE(Compare({1.0, kInfinity}, {1.0, std::nan("")}).Held());
  EXPECT_FALSE(Compare({1.0, std::nan("")}, {1.0, kInfinity}).Held());
  // The rest is measured all the same.
  EXPECT_FALSE(Compare({2.0, std::nan("")}, {1.0, std::nan("")}).Held());
}

TEST(CompareTensorsTest, MagnitudeScalesTheFloor) {
  const auto compare = [](double magnitude) {
    return CompareTensors("x", Doubles({1e-3}), Doubles({0.0}), DType::kFloat64, kTolerance,
                          magnitude);
  };
  EXPECT_FALSE(compare(1.0).Held());
  EXPECT_TRUE(compare(100.0).Held());
}

TEST(CompareTensorsTest, ShapeDTypeAndPresenceMustFit) {
  const Tensor reference = Doubles({1.0, 2.0});
  EXPECT_THAT(CompareTensors("x", Doubles({1.0}), reference, DType::kFloat64, kTolerance).violation,
              HasSubstr("has shape [1], must have [2]"));
  EXPECT_THAT(CompareTensors("x", reference, reference, DType::kFloat32, kTolerance).violation,
              HasSubstr("is float64, must be float32"));
  EXPECT_THAT(CompareTensors("x", {}, reference, DType::kFloat64, kTolerance).violation,
              HasSubstr("is absent"));
}

std::vector<Comparison> CompareWith(const client::AttentionResult& actual,
                                    const Expectation& expected) {
  return CompareResults(actual, expected, {}, DType::kFloat64, kTolerance);
}

TEST(CompareResultsTest, RowsWithoutKeysMustBeExactlyZero) {
  client::AttentionResult exact;
  exact.o = Tensor::FromValues<double>({0.0, 0.0, 1.0, 1.0}, {1, 1, 2, 2});
  exact.lse = Tensor::FromValues<double>({-kInfinity, 0.5}, {1, 1, 2});
  client::AttentionResult actual = exact;
  for (const Comparison& comparison : CompareWith(actual, {.exact = exact})) {
    EXPECT_TRUE(comparison.Held()) << comparison.name;
  }
  actual.o = Tensor::FromValues<double>({0.0, 1e-30, 1.0, 1.0}, {1, 1, 2, 2});
  EXPECT_THAT(CompareWith(actual, {.exact = exact})[0].violation,
              HasSubstr("in row 0, which sees no key"));
}

TEST(CompareResultsTest, TwiceTheErrorOfExplicitMathIsAllowedOnTop) {
  const auto result = [](double o) {
    return client::AttentionResult{.o = Tensor::FromValues<double>({o}, {1, 1, 1, 1})};
  };
  const Expectation strict = {.exact = result(1.0)};
  const Expectation loose = {.exact = result(1.0), .same_dtype = {result(1.001), result(0.9)}};
  EXPECT_FALSE(CompareWith(result(1.19), strict)[0].Held());
  EXPECT_TRUE(CompareWith(result(1.19), loose)[0].Held());
  EXPECT_FALSE(CompareWith(result(1.22), loose)[0].Held());
  // An explicit computation that is not finite excuses nothing.
  const Expectation broken = {.exact = result(1.0), .same_dtype = {result(kInfinity)}};
  EXPECT_FALSE(CompareWith(result(1.19), broken)[0].Held());
}

TEST(ToleranceTest, GrowsWithRoundoffAndOrder) {
  for (const client::Operation operation :
       {client::Operation::kForward, client::Operation::kVjp, client::Operation::kHvp}) {
    const auto norm = [&](DType dtype, client::Precision precision) {
      return ToleranceOf(operation, dtype, precision).norm;
    };
    EXPECT_LT(norm(DType::kFloat64, client::Precision::kStrict), 1e-12);
    EXPECT_LT(norm(DType::kFloat64, client::Precision::kStrict),
              norm(DType::kFloat32, client::Precision::kStrict));
    EXPECT_LT(norm(DType::kFloat32, client::Precision::kStrict),
              norm(DType::kFloat32, client::Precision::kFast));
    EXPECT_LT(norm(DType::kFloat16, client::Precision::kStrict),
              norm(DType::kBFloat16, client::Precision::kStrict));
    EXPECT_LT(norm(DType::kBFloat16, client::Precision::kStrict), 0.05);
  }
}

}  // namespace
}  // namespace theria::cli
