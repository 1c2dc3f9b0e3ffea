#include <atomic>
#include <vector>

#include "client/cli/bench/bench_report.h"
#include "client/cli/bench/load.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::cli {
namespace {

using testing::HasSubstr;

TEST(PercentilesTest, NearestRank) {
  std::vector<absl::Duration> durations;
  for (int i = 100; i >= 1; --i) durations.push_back(absl::Milliseconds(i));
  const Percentiles percentiles = PercentilesOf(durations);
  EXPECT_EQ(percentiles.p50, absl::Milliseconds(50));
  EXPECT_EQ(percentiles.p90, absl::Milliseconds(90));
  EXPECT_EQ(percentiles.p95, absl::Milliseconds(95));
  EXPECT_EQ(percentiles.p99, absl::Milliseconds(99));
  EXPECT_EQ(PercentilesOf({absl::Seconds(1)}).p99, absl::Seconds(1));
}

TEST(WindowTest, SplitsTheMeanCall) {
  client::ExecutionInfo call;
  call.total_time = absl::Milliseconds(10);
  call.rpc_time = absl::Milliseconds(9);
  call.queue_time = absl::Milliseconds(2);
  call.compute_time = absl::Milliseconds(4);
  const Window window = Summarize({call, call}, absl::Milliseconds(500));
  EXPECT_EQ(window.calls, 2u);
  EXPECT_DOUBLE_EQ(window.calls_per_second, 4.0);
  EXPECT_EQ(window.client, absl::Milliseconds(1));
  EXPECT_EQ(window.network, absl::Milliseconds(3));
  EXPECT_EQ(window.queue, absl::Milliseconds(2));
  EXPECT_EQ(window.compute, absl::Milliseconds(4));
}

std::vector<Window> Windows(const std::vector<double>& rates) {
  std::vector<Window> windows;
  for (double rate : rates) {
    Window window{.calls_per_second = rate};
    window.latency.p50 = absl::Seconds(1.0 / rate);
    windows.push_back(window);
  }
  return windows;
}

TEST(WindowTest, StableWhenTheLastThreeAgree) {
  EXPECT_FALSE(IsStable(Windows({100, 100})));
  EXPECT_TRUE(IsStable(Windows({5, 100, 105, 95})));
  EXPECT_FALSE(IsStable(Windows({100, 100, 100, 150})));
}

TEST(LoadTest, RunsWindowsUntilStable) {
  std::atomic<int> calls = 0;
  int windows = 0;
  const auto call = [&]() -> absl::StatusOr<client::ExecutionInfo> {
    ++calls;
    client::ExecutionInfo execution;
    execution.total_time = absl::Milliseconds(1);
    return execution;
  };
  const absl::StatusOr<LoadResult> result =
      ApplyLoad(call, {.concurrency = 3, .window = absl::ZeroDuration(), .max_windows = 2},
                [&](const Window& window) {
                  ++windows;
                  EXPECT_EQ(window.calls, 3u);
                });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(windows, 2);
  EXPECT_EQ(calls, 7);  // one to warm up
  EXPECT_EQ(result->Representative().latency.p99, absl::Milliseconds(1));
}

TEST(LoadTest, AFailedCallEndsIt) {
  std::atomic<int> calls = 0;
  const auto call = [&]() -> absl::StatusOr<client::ExecutionInfo> {
    if (++calls > 4) return absl::UnavailableError("gone");
    return client::ExecutionInfo();
  };
  EXPECT_TRUE(absl::IsUnavailable(
      ApplyLoad(call, {.concurrency = 2, .window = absl::Seconds(10)}, [](const Window&) {
      }).status()));
}

TEST(BenchReportTest, TablesAndJson) {
  BenchResult result;
  result.operation = client::Operation::kVjp;
  result.device.execution.kernel = "cpu_reference_vjp";
  result.device.times = {absl::Milliseconds(2), absl::Milliseconds(1), absl::Milliseconds(3)};
  result.device.median_time = absl::Milliseconds(2);
  result.device.flops_per_second = 5e9;
  result.load.windows = Windows({100, 104, 96});
  const std::string text = FormatBench({result});
  EXPECT_THAT(text, HasSubstr("cpu_reference_vjp"));
  EXPECT_THAT(text, HasSubstr("2.000 ms  1.000 ms  3.000 ms  5.000 GFLOP/s"));
  EXPECT_THAT(text, HasSubstr("unstable"));
  const nlohmann::ordered_json json = BenchJson({result});
  EXPECT_EQ(json[0]["operation"], "vjp");
  EXPECT_EQ(json[0]["client"]["windows"].size(), 3u);
  EXPECT_DOUBLE_EQ(json[0]["device"]["seconds"][1], 1e-3);
}

}  // namespace
}  // namespace theria::cli
