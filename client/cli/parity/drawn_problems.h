#ifndef THERIA_CLIENT_CLI_PARITY_DRAWN_PROBLEMS_H_
#define THERIA_CLIENT_CLI_PARITY_DRAWN_PROBLEMS_H_

#include <vector>

#include "client/cli/parity/problem.h"

namespace theria::cli {

// `count` problems of random sizes and combinations of options that are valid together, the same
// each time. Their option class is "drawn"; their variants are numbered and name the options.
std::vector<Problem> DrawnProblems(int count);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_DRAWN_PROBLEMS_H_
