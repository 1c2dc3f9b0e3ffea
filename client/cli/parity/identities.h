#ifndef THERIA_CLIENT_CLI_PARITY_IDENTITIES_H_
#define THERIA_CLIENT_CLI_PARITY_IDENTITIES_H_

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/parity/compare.h"
#include "client/cli/parity/problem.h"
#include "theria/attention.h"

// What the four operations of one target owe each other, whatever a reference says. With <., .> the
// sum over all elements and over q, k and v, taken in float64.

namespace theria::cli {

enum class Identity {
  kAdjoint,            // <o_bar, JVP(x_dot)> = <VJP(o_bar), x_dot>
  kSymmetry,           // <a, HVP(b)> = <HVP(a), b>, o_bar_dot absent
  kFiniteDifferences,  // HVP(x_dot, o_bar_dot) = d/dh VJP(x + h x_dot, o_bar + h o_bar_dot),
                       // float64
};

std::string_view IdentityName(Identity identity);  // "adjoint", "symmetry", "finite differences"

// The operation that the identity is evidence for: JVP for the adjoint, else HVP.
client::Operation TestedOperation(Identity identity);

// Calls `target` and compares the two sides. The error of an inner product is taken relative to the
// product of the norms, for which the operations' tolerances are a rigorous bound.
//
// Errors: those of the calls. REQUIRES: dtype float64 for kFiniteDifferences.
absl::StatusOr<std::vector<Comparison>> CheckIdentity(client::Attention& target, Identity identity,
                                                      const Problem& problem, client::DType dtype,
                                                      client::Implementation implementation,
                                                      const client::CallOptions& call);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_IDENTITIES_H_
