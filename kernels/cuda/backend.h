#ifndef THERIA_KERNELS_CUDA_BACKEND_H_
#define THERIA_KERNELS_CUDA_BACKEND_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/api/stream_backend.h"

// The CUDA backend: attention and its derivatives on one GPU. Tensors live in device memory; every
// result is bitwise repeatable, since no kernel adds atomically. Thread-safe: each Run has a stream
// and a workspace of its own and returns when the device has finished.

namespace theria {

struct CudaBackendOptions {
  int device = 0;  // ordinal, as CUDA counts the visible devices
  // File of the kernels to prefer, see kernels/cuda/tuning.h. Empty: the repository's table for the
  // GPU, where it has one.
  std::string tuning_table;
};

// Makes a kernel fault on purpose: from then on every computation and copy fails, and the backend's
// health says so, until the process ends. For tests of what happens then.
// Errors: UNAVAILABLE where the build has no CUDA; INTERNAL.
absl::Status PlantCudaFault(int device);

// Devices that this process can see; 0 where there is no driver or the build has no CUDA.
int CudaDeviceCount();

// Serves kFused, kUnfused, and kAuto: fused where there is a kernel, unfused for the rest (head_dim
// above 256, and above 192 for the HVP of float64). Its memory is the device's, what spills from it
// goes to pinned host memory. Devices() lists all that the process sees, the one that computes
// first.
// Errors: UNAVAILABLE where the build has no CUDA or there is no such device; NOT_FOUND and
// INVALID_ARGUMENT for the tuning table; INTERNAL.
absl::StatusOr<std::unique_ptr<StreamBackend>> MakeCudaBackend(
    const CudaBackendOptions& options = {});

// The compiled kernels, by the names that a tuning table uses: lines "group name", those of a group
// in order of preference. Empty where the build has no CUDA.
std::string CudaKernelNames();

}  // namespace theria

#endif  // THERIA_KERNELS_CUDA_BACKEND_H_
