#ifndef THERIA_CLIENT_CLI_UNITS_H_
#define THERIA_CLIENT_CLI_UNITS_H_

#include <cstddef>
#include <string>

#include "absl/time/time.h"

// Quantities as a person reads them: four significant digits and a unit.

namespace theria::cli {

std::string FormatBytes(std::size_t bytes);           // "64 B", "1.500 MiB"
std::string FormatDuration(absl::Duration duration);  // "84.10 us", "1.250 ms", "3.000 s"
std::string FormatFlops(double flops_per_second);     // "12.50 GFLOP/s"

}  // namespace theria::cli

#endif  // THERIA_CLIENT_CLI_UNITS_H_
