#ifndef THERIA_CLIENT_CLI_PARITY_COMPARE_H_
#define THERIA_CLIENT_CLI_PARITY_COMPARE_H_

#include <string>
#include <vector>

#include "client/cli/parity/tolerance.h"
#include "theria/attention.h"

namespace theria::cli {

// How one quantity of one case came out.
struct Comparison {
  std::string name;  // "q_bar", "adjoint"
  double norm_error = 0.0;
  double max_error = 0.0;
  Tolerance tolerance;
  std::string violation;  // what no tolerance excuses: a NaN, a wrong shape; else empty

  // The larger of error / tolerance; infinite with a violation.
  double Ratio() const;
  bool Held() const { return Ratio() <= 1.0; }
};

// Compares `actual` with `reference`, element by element, by both measures of tolerance.h.
//
// Infinite elements must be equal and are left out of the measures; a NaN is a violation, as are
// another shape, a dtype other than `dtype` and a tensor that is not there.
Comparison CompareTensors(const std::string& name, const client::AnyTensor& actual,
                          const client::Tensor& reference, client::DType dtype,
                          const Tolerance& tolerance);

// Compares all outputs of `reference`, which computed them in float64. In rows whose reference lse
// is -inf (no key takes part), o, o_dot, lse_dot, q_bar and q_bar_dot must be exactly zero.
std::vector<Comparison> CompareResults(const client::AttentionResult& actual,
                                       const client::AttentionResult& reference,
                                       client::DType dtype, const Tolerance& tolerance);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_COMPARE_H_
