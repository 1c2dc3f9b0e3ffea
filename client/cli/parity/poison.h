#ifndef THERIA_CLIENT_CLI_PARITY_POISON_H_
#define THERIA_CLIENT_CLI_PARITY_POISON_H_

#include "client/cli/parity/problem.h"

namespace theria::cli {

// Writes the NaN and infinities of `problem.poison` into the inputs that `request` has. Does the
// same to every request of one problem. REQUIRES: row-major tensors if there is poison; the options
// of `request` are set.
void AddPoison(const Problem& problem, client::AttentionRequest& request);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_POISON_H_
