#include "server/telemetry/process_metrics.h"

#include <cmath>
#include <sstream>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

double ValueOf(const std::string& text, const std::string& name) {
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(name + " ")) return std::stod(line.substr(name.size()));
  }
  return NAN;
}

TEST(ProcessMetricsTest, TellsWhatTheProcessUses) {
  MetricRegistry registry;
  AddProcessMetrics(registry, {"1.2.3", "abc", "cpu"});
  const std::string text = registry.Text();
  EXPECT_GT(ValueOf(text, "process_resident_memory_bytes"), 1e6);
  EXPECT_GT(ValueOf(text, "process_virtual_memory_bytes"),
            ValueOf(text, "process_resident_memory_bytes"));
  EXPECT_GT(ValueOf(text, "process_cpu_seconds_total"), 0);
  EXPECT_GE(ValueOf(text, "process_open_fds"), 3);
  EXPECT_NEAR(ValueOf(text, "process_start_time_seconds"),
              absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()), 60);
  EXPECT_THAT(text, testing::HasSubstr(
                        "theria_build_info{version=\"1.2.3\",commit=\"abc\",backend=\"cpu\"} 1\n"));
}

}  // namespace
}  // namespace theria::server
