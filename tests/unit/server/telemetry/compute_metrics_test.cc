#include "server/telemetry/compute_metrics.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(ComputeMetricsTest, CountsByOperationDTypeAndImplementation) {
  MetricRegistry registry;
  ComputeMetrics metrics(registry);
  metrics.ObserveCompute(Operation::kHvp, DType::kBFloat16, Implementation::kReference,
                         absl::Milliseconds(250));
  metrics.ObserveCompute(Operation::kHvp, DType::kBFloat16, Implementation::kReference,
                         absl::Milliseconds(750));
  metrics.ObserveCompute(Operation::kForward, DType::kFloat64, Implementation::kFused,
                         absl::Seconds(1000));
  const std::string text = registry.Text();
  constexpr char kHvp[] = "{dtype=\"bfloat16\",implementation=\"reference\",op=\"hvp\"} ";
  EXPECT_THAT(text, HasSubstr(std::string("theria_compute_seconds_count") + kHvp + "2\n"));
  EXPECT_THAT(text, HasSubstr(std::string("theria_compute_seconds_sum") + kHvp + "1\n"));
  EXPECT_THAT(text, HasSubstr("implementation=\"fused\",op=\"forward\",le=\"+Inf\"} 1\n"));
}

ComputeMetrics::Benchmark Benchmark(std::string shape, double flops_per_second) {
  return {Operation::kVjp,
          DType::kFloat32,
          Implementation::kReference,
          std::move(shape),
          absl::Seconds(2),
          flops_per_second,
          640};
}

TEST(ComputeMetricsTest, PublishesTheLastBenchmarkOfALabel) {
  MetricRegistry registry;
  ComputeMetrics metrics(registry);
  metrics.PublishBenchmark(Benchmark("small", 1e9));
  metrics.PublishBenchmark(Benchmark("small", 3e9));
  const std::string text = registry.Text();
  constexpr char kLabels[] =
      "{dtype=\"float32\",implementation=\"reference\",op=\"vjp\",shape=\"small\"} ";
  EXPECT_THAT(text, HasSubstr(std::string("theria_benchmark_seconds") + kLabels + "2\n"));
  EXPECT_THAT(
      text, HasSubstr(std::string("theria_benchmark_flops_per_second") + kLabels + "3000000000\n"));
  EXPECT_THAT(text, HasSubstr(std::string("theria_benchmark_bytes") + kLabels + "640\n"));
}

TEST(ComputeMetricsTest, ForgetsTheOldestOfTooManyBenchmarks) {
  MetricRegistry registry;
  ComputeMetrics metrics(registry);
  for (std::size_t i = 0; i < ComputeMetrics::kMaxBenchmarks; ++i) {
    metrics.PublishBenchmark(Benchmark(std::string("s").append(std::to_string(i)), 1));
  }
  metrics.PublishBenchmark(Benchmark("s0", 2));  // now the youngest
  metrics.PublishBenchmark(Benchmark("one more", 1));
  const std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("shape=\"s0\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("shape=\"one more\"}"));
  EXPECT_THAT(text, Not(HasSubstr("shape=\"s1\"}")));
  EXPECT_THAT(text, HasSubstr("shape=\"s2\"}"));
}

}  // namespace
}  // namespace theria::server
