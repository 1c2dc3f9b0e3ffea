#ifndef THERIA_TESTS_CONFORMANCE_DENSE_ORACLE_H_
#define THERIA_TESTS_CONFORMANCE_DENSE_ORACLE_H_

#include "tests/conformance/array.h"
#include "tests/conformance/problem.h"

namespace theria::conformance {

// All outputs of the HVP, and so of every operation, from the formulas of
// docs/operator_contract.md as they stand there: one matrix for each symbol, stored whole, in long
// double, one loop for each product. An input that the problem lacks is zero. Shares no code with
// a backend but the pseudo-random draws of the dropout.
Arrays DenseOracle(const Problem& problem);

}  // namespace theria::conformance

#endif  // THERIA_TESTS_CONFORMANCE_DENSE_ORACLE_H_
