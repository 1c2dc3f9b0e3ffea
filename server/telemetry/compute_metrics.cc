#include "server/telemetry/compute_metrics.h"

#include <algorithm>

#include "prometheus/registry.h"

namespace theria::server {
namespace {

// 20 us to 5 minutes: a tiny call on an idle server up to a long sequence on the CPU.
const prometheus::Histogram::BucketBoundaries kSeconds = {
    2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2,
    0.1,  0.25, 0.5,  1.0,    2.5,  5.0,  10.0,   30.0, 60.0, 300.0};

const prometheus::Histogram::BucketBoundaries kRequests = {1, 2, 4, 8, 16, 32, 64, 128, 256};

}  // namespace

ComputeMetrics::ComputeMetrics(MetricRegistry& registry)
    : queue_seconds_(prometheus::BuildHistogram()
                         .Name("theria_queue_seconds")
                         .Help("Time from the acceptance of a request to the start of its "
                               "computation.")
                         .Register(registry.families())
                         .Add({}, kSeconds)),
      coalesced_requests_(prometheus::BuildHistogram()
                              .Name("theria_coalesced_requests")
                              .Help("Requests whose computations started together.")
                              .Register(registry.families())
                              .Add({}, kRequests)),
      compute_seconds_(prometheus::BuildHistogram()
                           .Name("theria_compute_seconds")
                           .Help("Time of a computation, by the device's own clock where it has "
                                 "one.")
                           .Register(registry.families())),
      benchmark_seconds_(prometheus::BuildGauge()
                             .Name("theria_benchmark_seconds")
                             .Help("Median time of one repetition in the last RunBenchmark.")
                             .Register(registry.families())),
      benchmark_flops_per_second_(
          prometheus::BuildGauge()
              .Name("theria_benchmark_flops_per_second")
              .Help("Floating-point operations per second at the median of the last RunBenchmark.")
              .Register(registry.families())),
      benchmark_bytes_(prometheus::BuildGauge()
                           .Name("theria_benchmark_bytes")
                           .Help("Bytes of inputs and outputs in the last RunBenchmark.")
                           .Register(registry.families())) {}

void ComputeMetrics::ObserveQueueTime(absl::Duration time) {
  queue_seconds_.Observe(absl::ToDoubleSeconds(time));
}

void ComputeMetrics::ObserveCoalesced(std::size_t requests) {
  coalesced_requests_.Observe(static_cast<double>(requests));
}

void ComputeMetrics::ObserveCompute(Operation operation, DType dtype, Implementation implementation,
                                    absl::Duration time) {
  const std::size_t index =
      (static_cast<std::size_t>(operation) * kDTypes + static_cast<std::size_t>(dtype)) *
          kImplementations +
      static_cast<std::size_t>(implementation);
  std::atomic<prometheus::Histogram*>& slot = compute_.at(index);
  prometheus::Histogram* histogram = slot.load(std::memory_order_acquire);
  if (histogram == nullptr) {
    histogram =
        &compute_seconds_.Add({{"op", std::string(OperationName(operation))},
                               {"dtype", std::string(DTypeName(dtype))},
                               {"implementation", std::string(ImplementationName(implementation))}},
                              kSeconds);
    slot.store(histogram, std::memory_order_release);
  }
  histogram->Observe(absl::ToDoubleSeconds(time));
}

void ComputeMetrics::PublishBenchmark(const Benchmark& benchmark) {
  prometheus::Labels labels = {
      {"op", std::string(OperationName(benchmark.operation))},
      {"shape", benchmark.shape},
      {"dtype", std::string(DTypeName(benchmark.dtype))},
      {"implementation", std::string(ImplementationName(benchmark.implementation))}};
  const std::lock_guard lock(benchmarks_mutex_);
  if (const auto known = std::find(benchmarks_.begin(), benchmarks_.end(), labels);
      known != benchmarks_.end()) {
    benchmarks_.erase(known);
  } else if (benchmarks_.size() == kMaxBenchmarks) {
    for (auto* family : {&benchmark_seconds_, &benchmark_flops_per_second_, &benchmark_bytes_}) {
      family->Remove(&family->Add(benchmarks_.front()));
    }
    benchmarks_.pop_front();
  }
  benchmark_seconds_.Add(labels).Set(absl::ToDoubleSeconds(benchmark.median));
  benchmark_flops_per_second_.Add(labels).Set(benchmark.flops_per_second);
  benchmark_bytes_.Add(labels).Set(static_cast<double>(benchmark.bytes));
  benchmarks_.push_back(std::move(labels));
}

}  // namespace theria::server
