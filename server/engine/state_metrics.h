#ifndef THERIA_SERVER_ENGINE_STATE_METRICS_H_
#define THERIA_SERVER_ENGINE_STATE_METRICS_H_

#include "kernels/api/memory.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/engine/executor.h"
#include "server/telemetry/metric_registry.h"

// The state of store, queue, shared and host memory at the time of a scrape:
// theria_store_{bytes,pending_bytes,pinned_bytes,capacity_bytes,spilled_bytes,spill_capacity_bytes,
// entries},
// theria_store_{hits,misses,spills,spill_bytes,restores,restore_bytes}_total,
// theria_store_evictions_total{reason}; theria_queue_depth, theria_running_requests,
// theria_accepted_bytes; theria_shared_memory_{bytes,capacity_bytes,regions};
// theria_host_kept_bytes.

namespace theria::server {

// Each: the store (executor, regions, host) must outlive the registry's last scrape.
void AddStoreMetrics(MetricRegistry& registry, const TensorStore& store);
void AddQueueMetrics(MetricRegistry& registry, const Executor& executor);
void AddSharedMemoryMetrics(MetricRegistry& registry, const SharedRegions& regions);
void AddHostMemoryMetrics(MetricRegistry& registry, const Memory& host);

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_STATE_METRICS_H_
