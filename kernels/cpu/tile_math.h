#ifndef THERIA_KERNELS_CPU_TILE_MATH_H_
#define THERIA_KERNELS_CPU_TILE_MATH_H_

#include <cstdint>

// What happens to the elements of score-shaped tiles between the products, in float64 and in the
// widest SIMD instructions of the machine, chosen at run time.
//
// Tiles are key-major: tile[keys, queries], row-major without gaps, so that a statistic of a row of
// scores is one lane of a vector and no sum runs across lanes. `queries` is a multiple of kTileUnit
// and all arrays are 64-byte aligned. Statistics are arrays [queries].
//
// The sign bit of a probability marks a forbidden pair: P is -0.0 there, and the pair contributes 0
// whatever it would multiply, a NaN or an infinity included. A visible pair never has the sign bit
// set, not even in a NaN. Its P may underflow to +0.0, and +0.0 times NaN is NaN as in explicit
// math. Among the scores, a NaN with its sign bit set is the mark.

namespace theria::cpu {

struct TileSize {
  std::int64_t keys;
  std::int64_t queries;

  std::int64_t count() const { return keys * queries; }
};

// s = scale * s + bias, or the mark of a forbidden pair where bias is -inf; row_max = max(row_max,
// s) over the visible pairs, unspecified in a row with a NaN. No `bias` is zero.
void ScaleScores(TileSize size, double scale, const double* bias, double* s, double* row_max);

// s = exp(s - row_max), within about one unit in the last place, and -0.0 for a forbidden pair;
// row_sum += s.
void ExponentiateScores(TileSize size, const double* row_max, double* s, double* row_sum);

// row_sum += sum over the keys of p∘x.
void AddWeightedSum(TileSize size, const double* p, const double* x, double* row_sum);

// x = x∘factor. A factor >= 0 keeps the marks of P.
void MultiplyElements(TileSize size, const double* factor, double* x);

// p = p * row_factor, which keeps the marks.
void ScaleRows(TileSize size, const double* row_factor, double* p);

// x = p∘(scale * x - center): S_bar from P_bar and delta, P_dot from S_dot and mu.
void CenterAndWeight(TileSize size, const double* p, double scale, const double* center, double* x);

// row_sum += sum over the keys of p∘((scale * s_dot - mu)∘p_bar + p_bar_dot), which is delta_dot.
void AddDeltaDot(TileSize size, const double* p, double scale, const double* s_dot,
                 const double* mu, const double* p_bar, const double* p_bar_dot, double* row_sum);

// The tangent step of the HVP, in place:
//   c         = scale * s_dot - mu
//   s_dot     = p∘c                                                            (now P_dot)
//   p_bar_dot = p∘((p_bar - delta)∘c + p_bar_dot - delta_dot)                  (now S_bar_dot)
//   p_bar     = p∘(p_bar - delta)                                              (now S_bar)
struct TangentStatistics {
  const double* mu;
  const double* delta;
  const double* delta_dot;
};
void TangentStep(TileSize size, const double* p, double scale, const TangentStatistics& statistics,
                 double* s_dot, double* p_bar, double* p_bar_dot);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_TILE_MATH_H_
