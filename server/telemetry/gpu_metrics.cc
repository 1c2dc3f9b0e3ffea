#include "server/telemetry/gpu_metrics.h"

#include <dlfcn.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace theria::server {
namespace {

// The part of NVML's binary interface that is used here, as the NVML API reference declares it:
// every function returns 0 for success.
namespace nvml {

using Device = struct OpaqueDevice*;
struct Memory {
  unsigned long long total, free, used;  // bytes
};
struct Utilization {
  unsigned int gpu, memory;  // percent
};
constexpr int kGpuTemperature = 0;
constexpr unsigned int kTextBytes = 96;

}  // namespace nvml

// What one GPU tells now; without what it does not.
struct GpuReading {
  std::optional<double> utilization, memory_used, memory_total, temperature, power, energy;
};

// The loaded and initialised library.
class Nvml {
 public:
  struct Gpu {
    nvml::Device device;
    std::string index, uuid, name;
  };

  // Null without a driver.
  static std::shared_ptr<Nvml> Load(const char* library) {
    void* const handle = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) return nullptr;
    auto nvml = std::shared_ptr<Nvml>(new Nvml(handle));
    return nvml->FindGpus() ? nvml : nullptr;
  }

  ~Nvml() {
    if (is_initialised_) Call<>("nvmlShutdown");
    dlclose(handle_);
  }
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  const std::vector<Gpu>& gpus() const { return gpus_; }

  GpuReading Read(const Gpu& gpu) const {
    GpuReading reading;
    nvml::Utilization utilization{};
    if (Call("nvmlDeviceGetUtilizationRates", gpu.device, &utilization)) {
      reading.utilization = utilization.gpu / 100.0;
    }
    nvml::Memory memory{};
    if (Call("nvmlDeviceGetMemoryInfo", gpu.device, &memory)) {
      reading.memory_used = static_cast<double>(memory.used);
      reading.memory_total = static_cast<double>(memory.total);
    }
    unsigned int celsius = 0;
    if (Call("nvmlDeviceGetTemperature", gpu.device, nvml::kGpuTemperature, &celsius)) {
      reading.temperature = celsius;
    }
    unsigned int milliwatts = 0;
    if (Call("nvmlDeviceGetPowerUsage", gpu.device, &milliwatts)) {
      reading.power = milliwatts / 1e3;
    }
    unsigned long long millijoules = 0;
    if (Call("nvmlDeviceGetTotalEnergyConsumption", gpu.device, &millijoules)) {
      reading.energy = static_cast<double>(millijoules) / 1e3;
    }
    return reading;
  }

 private:
  explicit Nvml(void* handle) : handle_(handle) {}

  // Whether the library has the function, and it succeeded.
  template <typename... Arguments>
  bool Call(const char* function, Arguments... arguments) const {
    void* const address = dlsym(handle_, function);
    return address != nullptr &&
           reinterpret_cast<int (*)(Arguments...)>(address)(arguments...) == 0;
  }

  bool FindGpus() {
    is_initialised_ = Call("nvmlInit_v2");
    unsigned int count = 0;
    if (!is_initialised_ || !Call("nvmlDeviceGetCount_v2", &count)) return false;
    for (unsigned int index = 0; index < count; ++index) {
      nvml::Device device = nullptr;
      if (!Call("nvmlDeviceGetHandleByIndex_v2", index, &device)) continue;
      gpus_.push_back({device, std::to_string(index), Text("nvmlDeviceGetUUID", device),
                       Text("nvmlDeviceGetName", device)});
    }
    return !gpus_.empty();
  }

  std::string Text(const char* function, nvml::Device device) const {
    std::array<char, nvml::kTextBytes> text{};
    return Call(function, device, text.data(), nvml::kTextBytes) ? text.data() : "";
  }

  void* const handle_;
  bool is_initialised_ = false;
  std::vector<Gpu> gpus_;
};

struct Metric {
  std::string_view name, help;
  MetricSample::Kind kind;
  std::optional<double> GpuReading::*value;
};

constexpr auto kGauge = MetricSample::Kind::kGauge;
constexpr auto kCounter = MetricSample::Kind::kCounter;
constexpr Metric kMetrics[] = {
    {"theria_gpu_utilization_ratio", "Share of time with a kernel running on the GPU.", kGauge,
     &GpuReading::utilization},
    {"theria_gpu_memory_used_bytes", "Memory of the GPU in use, by all processes.", kGauge,
     &GpuReading::memory_used},
    {"theria_gpu_memory_total_bytes", "Memory of the GPU.", kGauge, &GpuReading::memory_total},
    {"theria_gpu_temperature_celsius", "Temperature of the GPU.", kGauge, &GpuReading::temperature},
    {"theria_gpu_power_watts", "Power that the GPU draws.", kGauge, &GpuReading::power},
    {"theria_gpu_energy_joules_total", "Energy that the GPU used since its driver was loaded.",
     kCounter, &GpuReading::energy},
};

std::vector<MetricSample> SampleGpus(const Nvml& nvml) {
  std::vector<MetricSample> samples;
  std::vector<GpuReading> readings;
  for (const Nvml::Gpu& gpu : nvml.gpus()) {
    readings.push_back(nvml.Read(gpu));
    samples.push_back({"theria_gpu_info",
                       "Constant 1; the labels tell which GPU it is.",
                       kGauge,
                       {{"device", gpu.index}, {"uuid", gpu.uuid}, {"name", gpu.name}},
                       1.0});
  }
  for (const Metric& metric : kMetrics) {
    for (std::size_t i = 0; i < readings.size(); ++i) {
      const std::optional<double>& value = readings[i].*metric.value;
      const Nvml::Gpu& gpu = nvml.gpus()[i];
      if (!value.has_value()) continue;
      samples.push_back({std::string(metric.name),
                         std::string(metric.help),
                         metric.kind,
                         {{"device", gpu.index}, {"uuid", gpu.uuid}},
                         *value});
    }
  }
  return samples;
}

}  // namespace

std::size_t AddGpuMetrics(MetricRegistry& registry, const char* library) {
  std::shared_ptr<Nvml> nvml = Nvml::Load(library);
  if (nvml == nullptr) return 0;
  const std::size_t count = nvml->gpus().size();
  registry.AddSource([nvml = std::move(nvml)] { return SampleGpus(*nvml); });
  return count;
}

}  // namespace theria::server
