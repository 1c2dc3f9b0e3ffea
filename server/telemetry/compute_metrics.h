#ifndef THERIA_SERVER_TELEMETRY_COMPUTE_METRICS_H_
#define THERIA_SERVER_TELEMETRY_COMPUTE_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <deque>
#include <mutex>
#include <string>

#include "absl/time/time.h"
#include "kernels/api/attention.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "server/telemetry/metric_registry.h"

// What computations cost:
//
//   theria_queue_seconds                                    histogram
//   theria_coalesced_requests                               histogram
//   theria_compute_seconds{op,dtype,implementation}         histogram
//   theria_benchmark_seconds{op,shape,dtype,implementation} gauge, and
//   theria_benchmark_flops_per_second, theria_benchmark_bytes likewise
//
// Clients name the shapes of benchmarks; the last kMaxBenchmarks of them are kept. Thread-safe.

namespace theria::server {

class ComputeMetrics {
 public:
  static constexpr std::size_t kMaxBenchmarks = 128;

  struct Benchmark {
    Operation operation;
    DType dtype;
    Implementation implementation;  // REQUIRES: never kAuto
    std::string shape;
    absl::Duration median;
    double flops_per_second;
    std::size_t bytes;
  };

  // The registry must outlive this.
  explicit ComputeMetrics(MetricRegistry& registry);

  void ObserveQueueTime(absl::Duration time);
  // How many requests started together.
  void ObserveCoalesced(std::size_t requests);
  // REQUIRES: `implementation` is not kAuto.
  void ObserveCompute(Operation operation, DType dtype, Implementation implementation,
                      absl::Duration time);
  void PublishBenchmark(const Benchmark& benchmark);

 private:
  static constexpr std::size_t kOperations = 4, kDTypes = 4, kImplementations = 4;

  prometheus::Histogram& queue_seconds_;
  prometheus::Histogram& coalesced_requests_;
  prometheus::Family<prometheus::Histogram>& compute_seconds_;
  // The histograms by label, made at first use.
  std::array<std::atomic<prometheus::Histogram*>, kOperations * kDTypes * kImplementations>
      compute_{};

  std::mutex benchmarks_mutex_;
  prometheus::Family<prometheus::Gauge>& benchmark_seconds_;
  prometheus::Family<prometheus::Gauge>& benchmark_flops_per_second_;
  prometheus::Family<prometheus::Gauge>& benchmark_bytes_;
  std::deque<prometheus::Labels> benchmarks_;  // oldest first
};

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_COMPUTE_METRICS_H_
