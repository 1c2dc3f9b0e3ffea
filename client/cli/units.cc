#include "client/cli/units.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace theria::cli {
namespace {

// `value` with four significant digits, no exponent.
std::string Digits(double value) {
  const double magnitude = std::fabs(value);
  const int before_point = magnitude < 1.0 ? 1 : static_cast<int>(std::log10(magnitude)) + 1;
  return absl::StrFormat("%.*f", std::max(0, 4 - before_point), value);
}

}  // namespace

std::string FormatBytes(std::size_t bytes) {
  if (bytes < 1024) return absl::StrFormat("%d B", bytes);
  auto value = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* larger : {"KiB", "MiB", "GiB", "TiB"}) {
    if (value < 1024.0) break;
    value /= 1024.0;
    unit = larger;
  }
  return absl::StrFormat("%s %s", Digits(value), unit);
}

std::string FormatDuration(absl::Duration duration) {
  const double seconds = absl::ToDoubleSeconds(duration);
  if (seconds < 1e-3) return Digits(seconds * 1e6) + " us";
  if (seconds < 1.0) return Digits(seconds * 1e3) + " ms";
  return Digits(seconds) + " s";
}

std::string FormatFlops(double flops_per_second) {
  if (flops_per_second >= 1e12) return Digits(flops_per_second / 1e12) + " TFLOP/s";
  return Digits(flops_per_second / 1e9) + " GFLOP/s";
}

}  // namespace theria::cli
