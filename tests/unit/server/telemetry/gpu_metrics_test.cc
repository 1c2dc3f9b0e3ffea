#include "server/telemetry/gpu_metrics.h"

#include <stdlib.h>

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

// FAKE_NVML_LIBRARY is the built fake_nvml.cc.
class GpuMetricsTest : public testing::Test {
 protected:
  void TearDown() override { unsetenv("FAKE_NVML"); }
  static void Break(const char* how) { setenv("FAKE_NVML", how, 1); }

  MetricRegistry registry_;
};

TEST_F(GpuMetricsTest, TellsOfEveryGpuInBaseUnits) {
  EXPECT_EQ(AddGpuMetrics(registry_, FAKE_NVML_LIBRARY), 2);
  EXPECT_THAT(
      registry_.Text(),
      AllOf(
          HasSubstr("theria_gpu_info{device=\"0\",uuid=\"GPU-00000000-1111\",name=\"Fake H200\"} "
                    "1\n"),
          HasSubstr("theria_gpu_utilization_ratio{device=\"0\",uuid=\"GPU-00000000-1111\"} 0.37\n"),
          HasSubstr("theria_gpu_memory_used_bytes{device=\"0\",uuid=\"GPU-00000000-1111\"} "
                    "40000000000\n"),
          HasSubstr("theria_gpu_memory_total_bytes{device=\"0\",uuid=\"GPU-00000000-1111\"} "
                    "150000000000\n"),
          HasSubstr("theria_gpu_temperature_celsius{device=\"0\",uuid=\"GPU-00000000-1111\"} 61\n"),
          HasSubstr("theria_gpu_power_watts{device=\"0\",uuid=\"GPU-00000000-1111\"} 412.5\n"),
          HasSubstr(
              "# TYPE theria_gpu_energy_joules_total counter\n"
              "theria_gpu_energy_joules_total{device=\"0\",uuid=\"GPU-00000000-1111\"} "
              "7500.25\n"
              "theria_gpu_energy_joules_total{device=\"1\",uuid=\"GPU-00000000-2222\"} 2\n")));
}

TEST_F(GpuMetricsTest, LeavesOutWhatAGpuDoesNotSupport) {
  AddGpuMetrics(registry_, FAKE_NVML_LIBRARY);
  EXPECT_THAT(registry_.Text(), AllOf(HasSubstr("theria_gpu_temperature_celsius{device=\"1\""),
                                      Not(HasSubstr("theria_gpu_power_watts{device=\"1\"")),
                                      Not(HasSubstr("theria_gpu_utilization_ratio{device=\"1\""))));
}

TEST_F(GpuMetricsTest, KeepsTheInfoAloneOfAGpuThatIsLost) {
  AddGpuMetrics(registry_, FAKE_NVML_LIBRARY);
  Break("lost");
  EXPECT_THAT(registry_.Text(), AllOf(HasSubstr("theria_gpu_info{device=\"1\""),
                                      HasSubstr("theria_gpu_memory_used_bytes{device=\"0\""),
                                      Not(HasSubstr("theria_gpu_memory_used_bytes{device=\"1\""))));
}

TEST_F(GpuMetricsTest, HasNoMetricsWithoutADriver) {
  EXPECT_EQ(AddGpuMetrics(registry_, "libtheria-no-such-library.so.1"), 0);
  EXPECT_EQ(AddGpuMetrics(registry_, "libc.so.6"), 0);  // no function of NVML
  Break("broken");
  EXPECT_EQ(AddGpuMetrics(registry_, FAKE_NVML_LIBRARY), 0);
  EXPECT_EQ(registry_.Text(), "");
}

}  // namespace
}  // namespace theria::server
