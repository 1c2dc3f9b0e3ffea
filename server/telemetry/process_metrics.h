#ifndef THERIA_SERVER_TELEMETRY_PROCESS_METRICS_H_
#define THERIA_SERVER_TELEMETRY_PROCESS_METRICS_H_

#include <string>

#include "server/telemetry/metric_registry.h"

// What the process is and uses, under Prometheus' standard names: process_resident_memory_bytes,
// process_virtual_memory_bytes, process_cpu_seconds_total, process_open_fds, process_max_fds,
// process_start_time_seconds; and theria_build_info{version,commit,backend}, always 1.

namespace theria::server {

struct BuildInfo {
  std::string version;
  std::string commit;
  std::string backend;
};

void AddProcessMetrics(MetricRegistry& registry, const BuildInfo& build);

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_PROCESS_METRICS_H_
