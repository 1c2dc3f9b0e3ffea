#include "kernels/cuda/runtime/device_pool.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>

#include "kernels/cuda/runtime/cuda_check.h"

namespace theria::cuda {
namespace {

absl::Status TrimPool() {
  int device = 0;
  cudaMemPool_t pool = nullptr;
  THERIA_CUDA_RETURN_IF_ERROR(cudaGetDevice(&device));
  THERIA_CUDA_RETURN_IF_ERROR(cudaDeviceGetDefaultMemPool(&pool, device));
  THERIA_CUDA_RETURN_IF_ERROR(cudaMemPoolTrimTo(pool, 0));
  return absl::OkStatus();
}

}  // namespace

absl::Status KeepFreedMemory(int device) {
  cudaMemPool_t pool = nullptr;
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  THERIA_CUDA_RETURN_IF_ERROR(cudaDeviceGetDefaultMemPool(&pool, device));
  THERIA_CUDA_RETURN_IF_ERROR(
      cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all));
  return absl::OkStatus();
}

absl::StatusOr<void*> AllocateAsync(std::size_t size_bytes, cudaStream_t stream) {
  void* data = nullptr;
  const cudaError_t error = cudaMallocAsync(&data, size_bytes, stream);
  if (error == cudaSuccess) return data;
  absl::Status status = CudaStatus(error, "cudaMallocAsync");
  if (!absl::IsResourceExhausted(status) || !TrimPool().ok()) return status;
  THERIA_CUDA_RETURN_IF_ERROR(cudaMallocAsync(&data, size_bytes, stream));
  return data;
}

}  // namespace theria::cuda
