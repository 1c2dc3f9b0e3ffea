#ifndef THERIA_KERNELS_CUDA_RUNTIME_DEVICE_POOL_H_
#define THERIA_KERNELS_CUDA_RUNTIME_DEVICE_POOL_H_

#include <cuda_runtime_api.h>

#include <cstddef>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// The stream-ordered pool that all device memory of this process comes from.

namespace theria::cuda {

// Makes the current device's pool keep what is freed, so that allocation costs microseconds.
// Errors: INTERNAL.
absl::Status KeepFreedMemory(int device);

// Uninitialised, 256-byte aligned device memory, usable by work enqueued on `stream` later; free it
// with cudaFreeAsync. Where the device is full, the pool gives back what it keeps in pieces that do
// not fit, once. Does not synchronise. Errors: RESOURCE_EXHAUSTED, INTERNAL.
absl::StatusOr<void*> AllocateAsync(std::size_t size_bytes, cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_DEVICE_POOL_H_
