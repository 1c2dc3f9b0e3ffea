#ifndef THERIA_SERVER_TELEMETRY_GPU_METRICS_H_
#define THERIA_SERVER_TELEMETRY_GPU_METRICS_H_

#include <cstddef>

#include "server/telemetry/metric_registry.h"

// What the NVIDIA driver's management library (NVML) tells of each GPU that this process may see,
// read at each scrape. `device` is NVML's index, which CUDA_VISIBLE_DEVICES does not change:
//
//   theria_gpu_info{device,uuid,name}              always 1
//   theria_gpu_utilization_ratio{device,uuid}      time with a kernel running, of the last sample
//   theria_gpu_memory_used_bytes{device,uuid}      by all processes
//   theria_gpu_memory_total_bytes{device,uuid}
//   theria_gpu_temperature_celsius{device,uuid}
//   theria_gpu_power_watts{device,uuid}
//   theria_gpu_energy_joules_total{device,uuid}    since the driver was loaded
//
// A GPU lacks what it does not support, and all but its info once it has fallen off the bus.

namespace theria::server {

// Of the driver; found as the dynamic linker finds any library.
inline constexpr char kNvmlLibrary[] = "libnvidia-ml.so.1";

// Adds these metrics for as long as the registry lives; returns the number of GPUs: 0, and no
// metrics, without a driver.
std::size_t AddGpuMetrics(MetricRegistry& registry, const char* library = kNvmlLibrary);

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_GPU_METRICS_H_
