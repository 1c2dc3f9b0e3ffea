#ifndef THERIA_CLIENT_CLI_PARITY_COMPARE_H_
#define THERIA_CLIENT_CLI_PARITY_COMPARE_H_

#include <string>
#include <vector>

#include "client/cli/parity/problem.h"
#include "client/cli/parity/tolerance.h"
#include "theria/attention.h"

namespace theria::cli {

// How one quantity of one case came out.
struct Comparison {
  std::string name;  // "q_bar", "adjoint"
  double norm_error = 0.0;
  double max_error = 0.0;
  Tolerance tolerance;
  std::string
      violation;  // what no tolerance excuses: a swallowed or spread NaN, a wrong shape; else empty

  // The larger of error / tolerance; infinite with a violation.
  double Ratio() const;
  bool Held() const { return Ratio() <= 1.0; }
};

// Compares `actual` with `reference`, element by element, by both measures of tolerance.h, whose
// floor is multiplied by `magnitude`.
//
// Elements that are not finite are left out of the measures and must be in the same places: equal
// where `reference` is infinite, NaN where it is NaN. Anything else is a violation, as are another
// shape, a dtype other than `dtype` and a tensor that is not there.
Comparison CompareTensors(const std::string& name, const client::AnyTensor& actual,
                          const client::Tensor& reference, client::DType dtype,
                          const Tolerance& tolerance, double magnitude = 1.0);

// What the outputs of one case are compared with.
struct Expectation {
  client::AttentionResult exact;
  // Explicit computations in the target's dtype, for a problem whose tolerances depend on them:
  // twice the largest error among them is added to the tolerance of an output.
  std::vector<client::AttentionResult> same_dtype;
};

// Compares all outputs of `expected.exact`. In rows whose exact lse is -inf (no key takes part), o,
// o_dot, lse_dot, q_bar and q_bar_dot must be exactly zero.
// Only of a problem with a bias are bias_bar and bias_bar_dot among them.
std::vector<Comparison> CompareResults(const client::AttentionResult& actual,
                                       const Expectation& expected, const Problem& problem,
                                       client::DType dtype, const Tolerance& tolerance);

// Adds a violation to the comparison of each output whose bits differ between two equal calls.
void RequireSameBits(const client::AttentionResult& first, const client::AttentionResult& second,
                     std::vector<Comparison>& comparisons);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_COMPARE_H_
