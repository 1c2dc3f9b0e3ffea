#ifndef THERIA_TESTS_CONFORMANCE_DENSE_ORACLE_H_
#define THERIA_TESTS_CONFORMANCE_DENSE_ORACLE_H_

#include "kernels/api/dtype.h"
#include "tests/conformance/array.h"
#include "tests/conformance/problem.h"

namespace theria::conformance {

// All outputs of the HVP, and so of every operation, from the formulas of
// docs/operator_contract.md as they stand there: one matrix for each symbol, stored whole, in long
// double, one loop for each product. A forbidden pair is left out of every sum, whatever the inputs
// hold; NaN and infinities that take part spread as IEEE 754 has it. An input that the problem
// lacks is zero. Shares no code with a backend but the pseudo-random draws of the dropout.
Arrays DenseOracle(const Problem& problem);

// The same formulas in the arithmetic of an explicit implementation, whose error is the measure of
// ours. float64: in float64. Otherwise sums are in float32, and o and the factors of the products
// after the softmax are rounded to `arithmetic`. Outputs are not rounded.
Arrays ExplicitMath(const Problem& problem, DType arithmetic);

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_DENSE_ORACLE_H_
