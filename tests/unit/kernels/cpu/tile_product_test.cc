#include "kernels/cpu/tile_product.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace theria::cpu
