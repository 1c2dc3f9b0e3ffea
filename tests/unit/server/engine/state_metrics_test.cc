#include "server/engine/state_metrics.h"

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/api/memory.h"
#include "tests/unit/server/fake_device.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

TEST(StateMetricsTest, TellsTheStoresState) {
  TensorStore store(HostMemory(), {.capacity_bytes = 1 << 20,
                                   .clock = [] { return absl::Now() - absl::UnixEpoch(); }});
  MetricRegistry registry;
  AddStoreMetrics(registry, store);

  absl::StatusOr<PendingTensor> pending = store.Create({}, {DType::kFloat32, {25}});
  ASSERT_TRUE(pending.ok());
  const std::string handle = (*std::move(pending)).Commit().handle;
  EXPECT_TRUE(store.Acquire({}, handle).ok());
  EXPECT_FALSE(store.Acquire({}, "nobody's").ok());
  absl::StatusOr<PendingTensor> second = store.Create({}, {DType::kFloat64, {2}});

  std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("theria_store_capacity_bytes 1048576\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_pending_bytes 16\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_bytes 116\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_entries 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_hits_total 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_misses_total 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_evictions_total{reason=\"deleted\"} 0\n"));
  ASSERT_TRUE(store.Delete({}, handle).ok());
  text = registry.Text();
  EXPECT_THAT(text, HasSubstr("theria_store_evictions_total{reason=\"deleted\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_evictions_total{reason=\"expired\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_evictions_total{reason=\"watermark\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_entries 0\n"));
}

TEST(StateMetricsTest, TellsWhatWasSpilled) {
  FakeDeviceMemory device;
  TensorStore store(
      device,
      {.capacity_bytes = 1 << 20, .spill_memory = &HostMemory(), .spill_capacity_bytes = 1 << 19});
  MetricRegistry registry;
  AddStoreMetrics(registry, store);
  const std::string handle = std::move(*store.Create({}, {DType::kFloat32, {25}})).Commit().handle;
  ASSERT_EQ(store.Relieve({}, 1), 100u);
  std::string text = registry.Text();
  EXPECT_THAT(text, HasSubstr("theria_store_bytes 0\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_spilled_bytes 100\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_spill_capacity_bytes 524288\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_spills_total 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_spill_bytes_total 100\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_restores_total 0\n"));
  ASSERT_TRUE(store.Acquire({}, handle).ok());
  text = registry.Text();
  EXPECT_THAT(text, HasSubstr("theria_store_bytes 100\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_spilled_bytes 0\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_restores_total 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_store_restore_bytes_total 100\n"));
}

class Idle : public Job {
 public:
  Idle(const MetricRegistry& registry, std::string& text)
      : Job({.bytes = 77, .flops = 0}, absl::InfiniteFuture()), registry_(registry), text_(text) {}

 private:
  void Run(absl::Duration) override { text_ = registry_.Text(); }
  void Drop(const absl::Status&) override {}
  const MetricRegistry& registry_;
  std::string& text_;
};

TEST(StateMetricsTest, TellsWhatTheHostsMemoryKeeps) {
  MetricRegistry registry;
  AddHostMemoryMetrics(registry, HostMemory());
  HostMemory().Trim();
  EXPECT_THAT(registry.Text(), HasSubstr("theria_host_kept_bytes 0\n"));
  { const auto block = HostMemory().Allocate(std::size_t{1} << 20); }
  const std::string kept = std::to_string(HostMemory().kept_bytes());
  EXPECT_THAT(registry.Text(), HasSubstr("theria_host_kept_bytes " + kept + "\n"));
}

TEST(StateMetricsTest, TellsTheQueuesState) {
  MetricRegistry registry;
  ComputeMetrics metrics(registry);
  Executor executor({.slots = 1}, metrics);
  AddQueueMetrics(registry, executor);
  std::string text;
  Idle job(registry, text);
  ASSERT_TRUE(executor.Submit(job).ok());  // runs before Submit returns
  EXPECT_THAT(text, HasSubstr("theria_queue_depth 0\n"));
  EXPECT_THAT(text, HasSubstr("theria_running_requests 1\n"));
  EXPECT_THAT(text, HasSubstr("theria_accepted_bytes 77\n"));
  EXPECT_THAT(registry.Text(), HasSubstr("theria_running_requests 0\n"));
}

}  // namespace
}  // namespace theria::server
