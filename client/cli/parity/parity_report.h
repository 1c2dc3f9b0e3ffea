#ifndef THERIA_CLIENT_CLI_PARITY_PARITY_REPORT_H_
#define THERIA_CLIENT_CLI_PARITY_PARITY_REPORT_H_

#include <string>
#include <vector>

#include "client/cli/parity/parity.h"
#include "nlohmann/json.hpp"

namespace theria::cli {

struct ParityCounts {
  int held = 0;
  int failed = 0;
  int skipped = 0;
};

ParityCounts Count(const std::vector<ParityResult>& results);

// A row for each implementation, dtype and option class, a column for each operation. A cell counts
// the cases and gives the worst error in units of its tolerance: "2  0.31"; "2  FAIL 4.8" above 1;
// "2 skipped". Below it every failure with its reason, the reasons of the skips, and the
// implementations that the target does not offer.
std::string FormatParity(const std::vector<ParityResult>& results);

// Every case with every comparison.
nlohmann::ordered_json ParityJson(const std::vector<ParityResult>& results);

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_PARITY_PARITY_REPORT_H_
