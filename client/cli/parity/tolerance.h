#ifndef THERIA_CLIENT_CLI_PARITY_TOLERANCE_H_
#define THERIA_CLIENT_CLI_PARITY_TOLERANCE_H_

#include <cmath>

#include "theria/attention.h"

// The one table of tolerances of `theria parity`.
//
// The reference computes in float64 from inputs that were rounded to the target's dtype and widened
// again, so an error is that of the target's arithmetic alone, not of the inputs. It is measured in
// two ways, and both must hold:
//
//   norm error  |x - x_ref|_2 / max(|x_ref|_2, floor * sqrt(n))
//   max error   max|x - x_ref| / max(max|x_ref|, floor)
//
// and both tolerances are factors of the unit roundoff u of the arithmetic.
//
// For ill-conditioned problems (large scores, finite masks) no factor of u is right: exp magnifies
// the rounding of a score by the size of the score. There, twice the error of an explicit
// computation in the target's dtype is added to each tolerance. The error is measured on the same
// inputs, and is the largest of several orders of summation, so that one lucky order does not
// count.

namespace theria::cli {

struct Tolerance {
  double norm = 0.0;
  double max = 0.0;
};

// Outputs of problems whose inputs are N(0, 1) have root mean squares of 0.05 to 10. The floor
// matters only where the exact result vanishes by cancellation (a query that sees a single key has
// S_bar = 0) but its rounding errors do not. Problem::MagnitudeOf scales it for larger inputs.
inline constexpr double kMagnitudeFloor = 1.0 / 32;

// Half the distance from 1 to the next number. TF32 has the mantissa of float16.
inline double UnitRoundoff(client::DType dtype, client::Precision precision) {
  switch (dtype) {
    case client::DType::kFloat64:
      return std::ldexp(1.0, -53);
    case client::DType::kFloat32:
      return std::ldexp(1.0, precision == client::Precision::kFast ? -11 : -24);
    case client::DType::kFloat16:
      return std::ldexp(1.0, -11);
    default:
      return std::ldexp(1.0, -8);  // bfloat16
  }
}

// Why these factors of u, for the norm error:
//
//  * Where sums and products are as precise as the inputs (float64, float32), a score is a sum of
//    head_dim rounded products, off by about sqrt(head_dim) u, and the exponential makes that a
//    relative error of the probability, which all outputs inherit. Evaluated explicitly in float32,
//    the four operations are off by 3 u to 9 u for head dimensions of 16 to 512 and up to 512 keys.
//    Other orders of summation are right too: 32 u. The HVP also subtracts row means of products
//    (S_dot - mu, P_bar_dot - delta_dot): 48 u.
//  * Where factors of products are rounded but sums are float32 (float16, bfloat16, TF32), only the
//    factors count: P and the output itself for forward; S_bar and the saved o too for the VJP;
//    their tangents for JVP and HVP. Each adds u / sqrt(12) to u / sqrt(3) at random: 0.6 u to 0.75
//    u in all when evaluated so. A kernel may round once or twice more (a rescaled accumulator, q
//    and k for TF32): 2 u, 3 u and 4 u by the number of products in a row.
//
// A single element may be off by more than the norm tells: by up to twice in those evaluations.
inline Tolerance ToleranceOf(client::Operation operation, client::DType dtype,
                             client::Precision precision) {
  const double u = UnitRoundoff(dtype, precision);
  const bool rounds_products = u >= std::ldexp(1.0, -11);
  double factor = 0.0;
  switch (operation) {
    case client::Operation::kForward:
      factor = rounds_products ? 2 : 32;
      break;
    case client::Operation::kVjp:
    case client::Operation::kJvp:
      factor = rounds_products ? 3 : 32;
      break;
    case client::Operation::kHvp:
      factor = rounds_products ? 4 : 48;
      break;
  }
  return {.norm = factor * u, .max = 2 * factor * u};
}

// Central differences of step h are off by h^2 / 6 times the third derivative, which is of the
// order of 10 here, and by about u / h from rounding: 2e-9 and 4e-12 for this h. One order is left
// for rougher problems, another for the largest element.
inline constexpr double kDifferenceStep = 3e-5;
inline constexpr Tolerance kDifferenceTolerance = {.norm = 2e-8, .max = 2e-7};

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_TOLERANCE_H_
