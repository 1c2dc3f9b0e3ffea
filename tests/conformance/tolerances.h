#ifndef THERIA_TESTS_CONFORMANCE_TOLERANCES_H_
#define THERIA_TESTS_CONFORMANCE_TOLERANCES_H_

#include "kernels/api/dtype.h"
#include "tests/conformance/target.h"

// Every tolerance of the suite, with its reason.
//
// An output x passes against the oracle's y if |x - y| <= relative * |y| + of_largest * max(1,
// max|y|), where max is over the tensor. The 1 stands for the inputs, which are of order one: a
// result that cancels to zero keeps the rounding errors of what cancelled.

namespace theria::conformance {

struct Tolerance {
  double relative;
  double of_largest;
};

// Half a unit in the last place: what one correct rounding leaves. The hair on top is for sums that
// lie within float64's own error of a tie.
constexpr double HalfUlp(DType dtype) {
  constexpr double kHair = 1.0 + 1e-6;
  switch (dtype) {
    case DType::kFloat64:
      return 0x1p-53 * kHair;
    case DType::kFloat32:
      return 0x1p-24 * kHair;
    case DType::kFloat16:
      return 0x1p-11 * kHair;
    case DType::kBFloat16:
      return 0x1p-8 * kHair;
    case DType::kBool:
    case DType::kInt32:
      return 0.0;
  }
  return 0.0;
}

// Smallest distance of neighbouring numbers, halved: the rounding of subnormal results.
constexpr double HalfSmallest(DType dtype) {
  return dtype == DType::kFloat16 ? 0x1p-25 : 0.0;  // other formats reach below any of our values
}

// Against the dense oracle in long double, by the dtype of the output. Sums of up to 1100 terms,
// chained up to four deep in the HVP, with scores up to a few hundred in the peaked cases, whose
// rounding error exp amplifies by as much: a few hundred units of 2^-53 in float64.
//
// kAccumulator has the same chains in float32, where 3xTF32 products leave some 2^-22 of a score;
// and for half inputs rounds P, S_bar and their tangents to the inputs' dtype before the second
// product of each chain, up to four in the HVP, and o before delta. kTf32 rounds the factors of
// every score to 11 bits, which exp amplifies by up to ten in the cases but scale_peaked.
constexpr Tolerance AgainstOracle(Arithmetic arithmetic, DType dtype) {
  if (arithmetic == Arithmetic::kFloat64) return {HalfUlp(dtype), 1e-13};
  switch (dtype) {
    case DType::kFloat64:
      return {HalfUlp(dtype), 1e-12};
    case DType::kFloat32:
      return {HalfUlp(dtype), arithmetic == Arithmetic::kTf32 ? 2e-2 : 1e-4};
    default:
      return {HalfUlp(dtype), 16 * HalfUlp(dtype)};
  }
}

// At most twice the error of explicit math in the same arithmetic (relative to the largest
// element), plus a few units in the last place, because explicit math may happen to make no
// rounding error.
constexpr Tolerance TwiceExplicit(double explicit_error, DType arithmetic, DType output) {
  return {HalfUlp(output), 2 * explicit_error + 8 * HalfUlp(arithmetic)};
}

// Central differences of fourth order in float64, step h = 1e-3: h^4 / 30 = 3e-14 of the fifth
// derivative, which is up to some 1e4 times the first where scores reach ten and dropout scales
// what is left, and rounding errors of 1e-13.
inline constexpr double kDifferenceStep = 1e-3;
inline constexpr Tolerance kAgainstDifferences = {0.0, 1e-9};

// Identities of inner products in float64: both sides are sums of up to 1e5 products of elements
// that are themselves off by about 1e-14; relative to the sum of the products' magnitudes, or to 1
// where those vanish. A device's exp2 and logarithm are off by a few units more.
constexpr double Identity(Arithmetic arithmetic) {
  return arithmetic == Arithmetic::kFloat64 ? 1e-13 : 1e-12;
}

// The same sums, taken in another order: linearity, permuted keys, more heads in a call.
constexpr Tolerance Reordered(Arithmetic arithmetic) { return {0.0, Identity(arithmetic)}; }

// With a saved lse: it was rounded to its dtype, and P inherits that relative error times |lse|,
// which stays below 16 in the table; the HVP takes P to the third power. The reference does not
// rebuild P from lse.
constexpr Tolerance WithSavedStatistics(Arithmetic arithmetic, DType dtype) {
  if (arithmetic == Arithmetic::kFloat64) return AgainstOracle(arithmetic, dtype);
  const double of_lse =
      StatisticsDType(dtype) == DType::kFloat64 ? 0.0 : 3 * 16 * HalfUlp(DType::kFloat32);
  return {HalfUlp(dtype), AgainstOracle(arithmetic, dtype).of_largest + of_lse};
}

// Peak growth of the process during an HVP at (1, 1, 8192, 64) beyond inputs and outputs, the
// product's promise.
inline constexpr std::int64_t kHvpGrowthBytes = std::int64_t{64} << 20;

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_TOLERANCES_H_
