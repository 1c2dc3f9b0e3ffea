#include "kernels/cpu/tile_product.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cpu/arena.h"
#include "tests/unit/kernels/cpu/every_target.h"

namespace theria::cpu {
namespace {

struct Operands {
  Operands(std::int64_t rows, std::int64_t columns, std::int64_t inner) {
    arena.Reserve(&a, rows, inner);
    arena.Reserve(&a_transposed, inner, rows);
    arena.Reserve(&b, inner, columns);
    arena.Reserve(&c, rows, columns);
    EXPECT_TRUE(arena.Allocate().ok());
    std::mt19937_64 generator(rows + 100 * columns + 10000 * inner);
    std::normal_distribution<double> normal;
    for (std::int64_t r = 0; r < rows; ++r) {
      for (std::int64_t p = 0; p < inner; ++p) {
        a[r * inner + p] = a_transposed[p * rows + r] = normal(generator);
      }
    }
    for (std::int64_t i = 0; i < inner * columns; ++i) b[i] = normal(generator);
    for (std::int64_t i = 0; i < rows * columns; ++i) c[i] = normal(generator);
  }

  Arena arena;
  double *a, *a_transposed, *b, *c;
};

TEST(TileProductTest, MatchesItsDefinition) {
  ForEveryTarget([] {
    for (const std::int64_t rows : {8, 16, 64}) {
      for (const std::int64_t columns : {8, 24, 64}) {
        for (const std::int64_t inner : {1, 7, 64, 512}) {
          for (const bool transposed : {false, true}) {
            for (const Into into : {Into::kOverwrite, Into::kAdd}) {
              const Operands x(rows, columns, inner);
              std::vector<double> expected(x.c, x.c + rows * columns);
              for (std::int64_t r = 0; r < rows; ++r) {
                for (std::int64_t col = 0; col < columns; ++col) {
                  long double sum = into == Into::kAdd ? x.c[r * columns + col] : 0.0;
                  for (std::int64_t p = 0; p < inner; ++p) {
                    sum += static_cast<long double>(x.a[r * inner + p]) * x.b[p * columns + col];
                  }
                  expected[r * columns + col] = static_cast<double>(sum);
                }
              }
              if (transposed) {
                MultiplyTransposed(rows, columns, inner, {x.a_transposed, rows}, {x.b, columns},
                                   into, {x.c, columns});
              } else {
                Multiply(rows, columns, inner, {x.a, inner}, {x.b, columns}, into, {x.c, columns});
              }
              for (std::int64_t i = 0; i < rows * columns; ++i) {
                // Rounding errors of a random walk of `inner` steps of order one.
                ASSERT_NEAR(x.c[i], expected[i], 1e-15 * (4.0 + inner))
                    << rows << " " << columns << " " << inner << " " << transposed;
              }
            }
          }
        }
      }
    }
  });
}

// Forbidden pairs have a weight of 0: without them the bits are those of the whole product of the
// finite operand, and neither a NaN nor an infinity in their factors shows.
TEST(TileProductTest, VisibleTermsAlone) {
  ForEveryTarget([] {
    constexpr std::int64_t kRows = 16, kColumns = 24, kInner = 21;
    for (const bool transposed : {false, true}) {
      const Operands x(kRows, kColumns, kInner);
      double* const a = transposed ? x.a_transposed : x.a;
      const std::int64_t a_stride = transposed ? kRows : kInner;
      std::vector<double> p(kRows * kInner, 0.5);
      // Row 2 sees nothing, and term 5 counts for row 3 only.
      for (std::int64_t row = 0; row < kRows; ++row) {
        for (std::int64_t i = 0; i < kInner; ++i) {
          if (row != 2 && (i != 5 || row == 3)) continue;
          const std::int64_t at = transposed ? i * kRows + row : row * kInner + i;
          p[at] = a[at] = -0.0;
        }
      }
      const std::vector<double> start(x.c, x.c + kRows * kColumns);
      const auto product = transposed ? MultiplyTransposed : Multiply;
      product(kRows, kColumns, kInner, {a, a_stride}, {x.b, kColumns}, Into::kAdd, {x.c, kColumns});
      const std::vector<double> whole(x.c, x.c + kRows * kColumns);
      EXPECT_TRUE(AllFinite(kInner * kColumns, x.b));
      for (const double value : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
        std::copy(start.begin(), start.end(), x.c);
        x.b[5 * kColumns + 7] = value;
        EXPECT_FALSE(AllFinite(kInner * kColumns, x.b));
        const auto visible = transposed ? AddVisibleTransposed : AddVisible;
        visible(kRows, kColumns, kInner, {a, a_stride}, {p.data(), a_stride}, {x.b, kColumns},
                {x.c, kColumns});
        for (std::int64_t i = 0; i < kRows * kColumns; ++i) {
          if (i == 3 * kColumns + 7) {
            EXPECT_FALSE(std::isfinite(x.c[i]));
          } else {
            EXPECT_EQ(x.c[i], whole[i]) << i;
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace theria::cpu
