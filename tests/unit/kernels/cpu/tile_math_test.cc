#include "kernels/cpu/tile_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu/arena.h"
#include "tests/unit/kernels/cpu/every_target.h"

namespace theria::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr TileSize kSize = {5, 16};

// Tiles and statistics of kSize, deterministic and different in each element.
class TileMathTest : public testing::Test {
 protected:
  TileMathTest() {
    for (double** tile : {&p, &x, &y, &z}) arena_.Reserve(tile, kSize.keys, kSize.queries);
    for (double** row : {&row_a, &row_b, &row_c}) arena_.Reserve(row, kSize.queries);
    EXPECT_TRUE(arena_.Allocate().ok());
    Refill();
  }

  void Refill() {
    for (std::int64_t i = 0; i < kSize.count(); ++i) {
      p[i] = 1.0 / (2.0 + static_cast<double>(i));
      x[i] = std::sin(i);
      y[i] = std::cos(i);
      z[i] = std::sin(2 * i + 1);
    }
    for (std::int64_t q = 0; q < kSize.queries; ++q) {
      row_a[q] = 0.25 + static_cast<double>(q);
      row_b[q] = std::sin(q + 7);
      row_c[q] = std::cos(q + 3);
    }
  }

  Arena arena_;
  double *p, *x, *y, *z;
  double *row_a, *row_b, *row_c;
};

TEST_F(TileMathTest, ScaleScores) {
  ForEveryTarget([&] {
    Refill();
    std::fill_n(row_a, kSize.queries, -kInfinity);
    ScaleScores(kSize, 0.5, nullptr, x, row_a);
    for (std::int64_t q = 0; q < kSize.queries; ++q) {
      double largest = -kInfinity;
      for (std::int64_t key = 0; key < kSize.keys; ++key) {
        const std::int64_t i = key * kSize.queries + q;
        EXPECT_EQ(x[i], 0.5 * std::sin(i));
        largest = std::max(largest, x[i]);
      }
      EXPECT_EQ(row_a[q], largest);
    }
  });
}

TEST_F(TileMathTest, BiasOfMinusInfinityForbidsWhateverTheScore) {
  ForEveryTarget([&] {
    Refill();
    x[0] = kInfinity;
    x[1] = kNan;
    x[2] = -kInfinity;
    y[0] = y[1] = y[2] = -kInfinity;
    std::fill_n(row_a, kSize.queries, -kInfinity);
    ScaleScores(kSize, 2.0, y, x, row_a);
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(x[i]) && std::signbit(x[i])) << x[i];
    EXPECT_TRUE(std::isfinite(row_a[0]));
    EXPECT_DOUBLE_EQ(x[3], 2.0 * std::sin(3) + std::cos(3));
  });
}

// The sign of a NaN means forbidden, so no visible score may have it, wherever its NaN comes from.
TEST_F(TileMathTest, VisibleNanHasNoSign) {
  ForEveryTarget([&] {
    for (const double* bias :
         {static_cast<const double*>(nullptr), static_cast<const double*>(y)}) {
      Refill();
      x[0] = kNan;
      x[1] = -kNan;
      x[2] = kInfinity;
      y[2] = -std::numeric_limits<double>::max();
      x[3] = -kInfinity;
      std::fill_n(row_a, kSize.queries, -kInfinity);
      ScaleScores(kSize, bias == nullptr ? 0.0 : 1.0, bias, x, row_a);
      for (std::int64_t i = 0; i < kSize.count(); ++i) {
        EXPECT_FALSE(std::isnan(x[i]) && std::signbit(x[i])) << i;
      }
      EXPECT_TRUE(std::isnan(x[0]) && std::isnan(x[1]));
      std::fill_n(row_b, kSize.queries, 0.0);
      row_a[4] = kNan;
      ExponentiateScores(kSize, row_a, x, row_b);
      for (std::int64_t i = 0; i < kSize.count(); ++i) EXPECT_FALSE(std::signbit(x[i])) << i;
      for (const int row : {0, 1, 4}) EXPECT_TRUE(std::isnan(row_b[row])) << row;
    }
  });
}

TEST_F(TileMathTest, ExponentialIsAccurateToAboutOneUlp) {
  ForEveryTarget([&] {
    double worst = 0.0;
    for (int step = 0; step < 4000; ++step) {
      for (std::int64_t i = 0; i < kSize.count(); ++i) {
        x[i] = -0.00222 * (step * kSize.count() + i);  // 0 down to -710
      }
      std::fill_n(row_a, kSize.queries, 0.0);
      std::fill_n(row_b, kSize.queries, 0.0);
      const std::vector<double> exponents(x, x + kSize.count());
      ExponentiateScores(kSize, row_a, x, row_b);
      for (std::int64_t i = 0; i < kSize.count(); ++i) {
        if (exponents[i] < -708.0) continue;  // subnormal: fewer bits
        const long double exact = std::exp(static_cast<long double>(exponents[i]));
        const double ulp = std::ldexp(1.0, std::ilogb(static_cast<double>(exact)) - 52);
        worst = std::max(worst, static_cast<double>(std::abs(x[i] - exact)) / ulp);
      }
    }
    EXPECT_LT(worst, 1.5);
  });
}

TEST_F(TileMathTest, ExponentialAtTheEnds) {
  ForEveryTarget([&] {
    Refill();
    std::fill_n(row_a, kSize.queries, 0.0);
    std::fill_n(row_b, kSize.queries, 0.0);
    x[0] = -kInfinity;
    x[1] = kNan;
    x[2] = -1e300;
    x[3] = 0.0;
    x[4] = -kNan;
    row_a[5] = -kInfinity;
    x[5] = -kInfinity;
    x[kSize.queries + 5] = -kNan;
    ExponentiateScores(kSize, row_a, x, row_b);
    EXPECT_EQ(x[0], 0.0);
    EXPECT_TRUE(std::isnan(x[1]));
    EXPECT_EQ(x[2], 0.0);
    EXPECT_EQ(x[3], 1.0);
    for (const int visible : {0, 1, 2, 3, 5}) EXPECT_FALSE(std::signbit(x[visible])) << visible;
    // A forbidden pair, and a row whose visible scores are all -inf.
    EXPECT_TRUE(x[4] == 0.0 && std::signbit(x[4])) << x[4];
    EXPECT_TRUE(std::isfinite(row_b[4]));
    EXPECT_TRUE(std::isnan(x[5]) && std::isnan(row_b[5]));
    const double beside = x[kSize.queries + 5];
    EXPECT_TRUE(beside == 0.0 && std::signbit(beside)) << beside;
    EXPECT_TRUE(std::isnan(row_b[1]));
    EXPECT_TRUE(std::isfinite(row_b[0]));
  });
}

TEST_F(TileMathTest, WeightedSumLeavesOutWhatIsForbidden) {
  ForEveryTarget([&] {
    Refill();
    p[0] = -0.0;
    x[0] = kNan;
    AddWeightedSum(kSize, p, x, row_a);
    for (std::int64_t q = 0; q < kSize.queries; ++q) {
      double expected = 0.25 + static_cast<double>(q);
      for (std::int64_t i = q; i < kSize.count(); i += kSize.queries) {
        if (i != 0) expected += p[i] * x[i];
      }
      EXPECT_NEAR(row_a[q], expected, 1e-14);
    }
  });
}

TEST_F(TileMathTest, NanThatTakesPartSpreads) {
  ForEveryTarget([&] {
    for (const double weight : {0.0, 0.5, kNan}) {
      Refill();
      p[0] = p[1] = p[2] = weight;
      x[0] = y[0] = y[1] = z[2] = kNan;
      row_b[3] = kNan;
      p[3] = -0.0;
      AddWeightedSum(kSize, p, x, row_a);
      EXPECT_TRUE(std::isnan(row_a[0])) << weight;
      CenterAndWeight(kSize, p, 0.5, row_b, x);
      EXPECT_TRUE(std::isnan(x[0])) << weight;
      EXPECT_EQ(x[3], 0.0);
      EXPECT_TRUE(std::isnan(x[kSize.queries + 3]));
      Refill();
      p[0] = p[1] = p[2] = weight;
      x[0] = y[1] = z[2] = kNan;
      AddDeltaDot(kSize, p, 0.5, x, row_a, y, z, row_c);
      for (const int i : {0, 1, 2}) EXPECT_TRUE(std::isnan(row_c[i])) << weight << " " << i;
      std::fill_n(row_c, kSize.queries, 0.0);
      TangentStep(kSize, p, 0.5, {row_a, row_b, row_c}, x, y, z);
      EXPECT_TRUE(std::isnan(x[0]) && std::isnan(y[1])) << weight;
      for (const int i : {0, 1, 2}) EXPECT_TRUE(std::isnan(z[i])) << weight << " " << i;
    }
  });
}

TEST_F(TileMathTest, ScalingKeepsTheMarks) {
  ForEveryTarget([&] {
    Refill();
    p[0] = p[1] = p[2] = -0.0;
    row_a[0] = kNan;
    row_a[1] = 0.0;
    for (std::int64_t i = 0; i < kSize.count(); ++i) x[i] = i % 3 == 0 ? 0.0 : 1.25;
    ScaleRows(kSize, row_a, p);
    MultiplyElements(kSize, x, p);
    for (std::int64_t i = 0; i < kSize.count(); ++i) EXPECT_EQ(std::signbit(p[i]), i < 3) << i;
    for (const int i : {0, 1, 2}) EXPECT_EQ(p[i], 0.0);
    EXPECT_TRUE(std::isnan(p[kSize.queries]));
  });
}

TEST_F(TileMathTest, ElementwiseSteps) {
  ForEveryTarget([&] {
    Refill();
    MultiplyElements(kSize, y, x);
    ScaleRows(kSize, row_b, p);
    for (std::int64_t i = 0; i < kSize.count(); ++i) {
      EXPECT_EQ(x[i], std::sin(i) * std::cos(i));
      EXPECT_EQ(p[i], 1.0 / (2.0 + static_cast<double>(i)) * row_b[i % kSize.queries]);
    }
    Refill();
    p[3] = -0.0;
    x[3] = kInfinity;
    CenterAndWeight(kSize, p, 0.5, row_b, x);
    for (std::int64_t i = 0; i < kSize.count(); ++i) {
      const double expected = i == 3 ? 0.0 : p[i] * (0.5 * std::sin(i) - row_b[i % kSize.queries]);
      EXPECT_NEAR(x[i], expected, 1e-15);
    }
  });
}

TEST_F(TileMathTest, TangentStepAndDeltaDot) {
  ForEveryTarget([&] {
    Refill();
    p[2] = -0.0;
    x[2] = y[2] = z[2] = kNan;
    const std::vector<double> s_dot(x, x + kSize.count());
    const std::vector<double> p_bar(y, y + kSize.count());
    const std::vector<double> p_bar_dot(z, z + kSize.count());
    std::vector<double> delta_dot(row_c, row_c + kSize.queries);
    for (std::int64_t i = 0; i < kSize.count(); ++i) {
      const std::int64_t q = i % kSize.queries;
      if (i != 2) {
        delta_dot[q] += p[i] * ((0.5 * s_dot[i] - row_a[q]) * p_bar[i] + p_bar_dot[i]);
      }
    }
    AddDeltaDot(kSize, p, 0.5, x, row_a, y, z, row_c);
    TangentStep(kSize, p, 0.5, {row_a, row_b, row_c}, x, y, z);
    for (std::int64_t i = 0; i < kSize.count(); ++i) {
      const std::int64_t q = i % kSize.queries;
      EXPECT_NEAR(row_c[q], delta_dot[q], 1e-13);
      if (i == 2) {
        EXPECT_EQ(x[i], 0.0);
        EXPECT_EQ(y[i], 0.0);
        EXPECT_EQ(z[i], 0.0);
        continue;
      }
      const double c = 0.5 * s_dot[i] - row_a[q];
      const double s_bar = p[i] * (p_bar[i] - row_b[q]);
      EXPECT_NEAR(x[i], p[i] * c, 1e-14);
      EXPECT_NEAR(y[i], s_bar, 1e-14);
      EXPECT_NEAR(z[i], s_bar * c + p[i] * (p_bar_dot[i] - row_c[q]), 1e-13);
    }
  });
}

}  // namespace
}  // namespace theria::cpu
