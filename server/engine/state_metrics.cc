#include "server/engine/state_metrics.h"

#include <cstdint>
#include <string>
#include <vector>

namespace theria::server {
namespace {

using Kind = MetricSample::Kind;

double Value(std::size_t count) { return static_cast<double>(count); }

}  // namespace

void AddStoreMetrics(MetricRegistry& registry, const TensorStore& store) {
  registry.AddSource([&store] {
    const TensorStoreStats stats = store.stats();
    std::vector<MetricSample> samples = {
        {"theria_store_bytes",
         "Bytes that the tensor store holds in the backend's memory.",
         Kind::kGauge,
         {},
         Value(stats.used_bytes)},
        {"theria_store_pending_bytes",
         "Of these, bytes of tensors still being written.",
         Kind::kGauge,
         {},
         Value(stats.pending_bytes)},
        {"theria_store_pinned_bytes",
         "Of these, bytes of pinned tensors.",
         Kind::kGauge,
         {},
         Value(stats.pinned_bytes)},
        {"theria_store_capacity_bytes",
         "Bytes that the tensor store may hold there.",
         Kind::kGauge,
         {},
         Value(stats.capacity_bytes)},
        {"theria_store_spilled_bytes",
         "Bytes of tensors spilled to host memory.",
         Kind::kGauge,
         {},
         Value(stats.spilled_bytes)},
        {"theria_store_spill_capacity_bytes",
         "Bytes that may be spilled to host memory.",
         Kind::kGauge,
         {},
         Value(stats.spill_capacity_bytes)},
        {"theria_store_entries",
         "Tensors that can be read.",
         Kind::kGauge,
         {},
         Value(stats.entries)},
        {"theria_store_hits_total",
         "Reads that found their tensor.",
         Kind::kCounter,
         {},
         Value(stats.hits)},
        {"theria_store_misses_total",
         "Reads that did not find their tensor.",
         Kind::kCounter,
         {},
         Value(stats.misses)},
    };
    const auto count = [&samples](const char* name, const char* help, std::uint64_t value) {
      samples.push_back({name, help, Kind::kCounter, {}, static_cast<double>(value)});
    };
    count("theria_store_spills_total", "Tensors moved to host memory.", stats.spills);
    count("theria_store_spill_bytes_total", "Their bytes.", stats.spill_traffic_bytes);
    count("theria_store_restores_total", "Tensors moved back for use.", stats.restores);
    count("theria_store_restore_bytes_total", "Their bytes.", stats.restore_traffic_bytes);
    for (std::size_t reason = 0; reason < stats.evictions.size(); ++reason) {
      const auto name = EvictionReasonName(static_cast<EvictionReason>(reason));
      samples.push_back({"theria_store_evictions_total",
                         "Tensors that left the store.",
                         Kind::kCounter,
                         {{"reason", std::string(name)}},
                         Value(stats.evictions.at(reason))});
    }
    return samples;
  });
}

void AddQueueMetrics(MetricRegistry& registry, const Executor& executor) {
  registry.AddSource([&executor]() -> std::vector<MetricSample> {
    const Executor::Load load = executor.load();
    return {
        {"theria_queue_depth",
         "Accepted requests that wait for a slot.",
         Kind::kGauge,
         {},
         Value(load.queued)},
        {"theria_running_requests",
         "Requests that are being computed.",
         Kind::kGauge,
         {},
         Value(load.running)},
        {"theria_accepted_bytes",
         "Bytes of inputs and outputs of accepted requests.",
         Kind::kGauge,
         {},
         Value(load.accepted_bytes)},
    };
  });
}

void AddSharedMemoryMetrics(MetricRegistry& registry, const SharedRegions& regions) {
  registry.AddSource([&regions]() -> std::vector<MetricSample> {
    const SharedRegions::Stats stats = regions.stats();
    return {
        {"theria_shared_memory_bytes",
         "Bytes of the host's memory that are shared with clients.",
         Kind::kGauge,
         {},
         Value(stats.used_bytes)},
        {"theria_shared_memory_capacity_bytes",
         "Bytes of it that may be.",
         Kind::kGauge,
         {},
         Value(stats.capacity_bytes)},
        {"theria_shared_memory_regions",
         "Regions of shared memory, those that clients lend among them.",
         Kind::kGauge,
         {},
         Value(stats.regions)},
    };
  });
}

void AddHostMemoryMetrics(MetricRegistry& registry, const Memory& host) {
  registry.AddSource([&host]() -> std::vector<MetricSample> {
    return {{"theria_host_kept_bytes",
             "Freed bytes of the host's memory that are kept for the next tensors.",
             Kind::kGauge,
             {},
             Value(host.kept_bytes())}};
  });
}

}  // namespace theria::server
