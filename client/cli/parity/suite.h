#ifndef THERIA_CLIENT_CLI_PARITY_SUITE_H_
#define THERIA_CLIENT_CLI_PARITY_SUITE_H_

#include <vector>

#include "client/cli/parity/problem.h"

namespace theria::cli {

// Quick: every option of the contract once, and a selection of the hard inputs (large scores,
// finite masks, NaN and infinities). Full: all hard inputs, each with and without saved o and lse,
// and both at sizes that take several tiles; and 300 drawn combinations of options.
enum class Suite { kQuick, kFull };

// No two problems have the same option class, sizes, tangents and variant.
std::vector<Problem> Problems(Suite suite);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_SUITE_H_
