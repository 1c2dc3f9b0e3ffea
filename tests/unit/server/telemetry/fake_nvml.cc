// A stand-in for the NVIDIA driver's libnvidia-ml.so.1 with two GPUs, of which the second knows
// neither its utilisation nor its power. The environment's FAKE_NVML says what is wrong: `broken`,
// no initialisation; `lost`, GPU 1 answers no more.

#include <cstdlib>
#include <cstring>

namespace {

constexpr int kSuccess = 0, kInvalidArgument = 2, kNotSupported = 3, kInsufficientSize = 7,
              kDriverNotLoaded = 9, kGpuIsLost = 15;

struct Gpu {
  const char *uuid, *name;
  unsigned long long total, used, millijoules;
  unsigned int percent, celsius, milliwatts;
};
Gpu gpus[] = {
    {"GPU-00000000-1111", "Fake H200", 150'000'000'000, 40'000'000'000, 7'500'250, 37, 61, 412'500},
    {"GPU-00000000-2222", "Fake H200", 150'000'000'000, 10'000'000'000, 2'000, 0, 33, 0},
};

bool Is(const char* state) {
  const char* const given = std::getenv("FAKE_NVML");
  return given != nullptr && std::strcmp(given, state) == 0;
}

int Answer(const Gpu* gpu, bool is_supported = true) {
  if (Is("lost") && gpu == &gpus[1]) return kGpuIsLost;
  return is_supported ? kSuccess : kNotSupported;
}

int Copy(const char* from, char* to, unsigned int size) {
  if (std::strlen(from) >= size) return kInsufficientSize;
  std::strcpy(to, from);
  return kSuccess;
}

}  // namespace

extern "C" {

int nvmlInit_v2() { return Is("broken") ? kDriverNotLoaded : kSuccess; }
int nvmlShutdown() { return kSuccess; }
int nvmlDeviceGetCount_v2(unsigned int* count) {
  *count = 2;
  return kSuccess;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, Gpu** gpu) {
  if (index > 1) return kInvalidArgument;
  *gpu = &gpus[index];
  return kSuccess;
}
int nvmlDeviceGetUUID(const Gpu* gpu, char* uuid, unsigned int size) {
  return Copy(gpu->uuid, uuid, size);
}
int nvmlDeviceGetName(const Gpu* gpu, char* name, unsigned int size) {
  return Copy(gpu->name, name, size);
}
int nvmlDeviceGetUtilizationRates(const Gpu* gpu, unsigned int* gpu_and_memory) {
  gpu_and_memory[0] = gpu->percent;
  gpu_and_memory[1] = gpu->percent / 2;
  return Answer(gpu, gpu == &gpus[0]);
}
int nvmlDeviceGetMemoryInfo(const Gpu* gpu, unsigned long long* total_free_used) {
  total_free_used[0] = gpu->total;
  total_free_used[1] = gpu->total - gpu->used;
  total_free_used[2] = gpu->used;
  return Answer(gpu);
}
int nvmlDeviceGetTemperature(const Gpu* gpu, int sensor, unsigned int* celsius) {
  if (sensor != 0) return kInvalidArgument;
  *celsius = gpu->celsius;
  return Answer(gpu);
}
int nvmlDeviceGetPowerUsage(const Gpu* gpu, unsigned int* milliwatts) {
  *milliwatts = gpu->milliwatts;
  return Answer(gpu, gpu == &gpus[0]);
}
int nvmlDeviceGetTotalEnergyConsumption(const Gpu* gpu, unsigned long long* millijoules) {
  *millijoules = gpu->millijoules;
  return Answer(gpu);
}
}
