#include "kernels/cuda/runtime/device_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/api/message.h"
#include "kernels/cuda/runtime/cuda_check.h"

namespace theria::cuda {

absl::StatusOr<std::unique_ptr<DeviceMemory>> DeviceMemory::Create(int device) {
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  std::unique_ptr<DeviceMemory> memory(new DeviceMemory(device, Message("cuda:", device)));
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&memory->stream_, cudaStreamNonBlocking));
  cudaMemPool_t pool = nullptr;
  THERIA_CUDA_RETURN_IF_ERROR(cudaDeviceGetDefaultMemPool(&pool, device));
  std::uint64_t keep_all = std::numeric_limits<std::uint64_t>::max();
  THERIA_CUDA_RETURN_IF_ERROR(
      cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &keep_all));
  return memory;
}

DeviceMemory::~DeviceMemory() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::StatusOr<Buffer> DeviceMemory::Allocate(std::size_t size_bytes) {
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  void* data = nullptr;
  THERIA_CUDA_RETURN_IF_ERROR(
      cudaMallocAsync(&data, std::max<std::size_t>(size_bytes, 1), stream_));
  Buffer buffer(this, data, size_bytes);
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  return buffer;
}

absl::Status DeviceMemory::CopyFromHost(void* destination, const void* source,
                                        std::size_t size_bytes) {
  return Copy(destination, source, size_bytes, cudaMemcpyHostToDevice);
}

absl::Status DeviceMemory::CopyToHost(void* destination, const void* source,
                                      std::size_t size_bytes) {
  return Copy(destination, source, size_bytes, cudaMemcpyDeviceToHost);
}

absl::Status DeviceMemory::Copy(void* destination, const void* source, std::size_t size_bytes,
                                cudaMemcpyKind kind) {
  if (size_bytes == 0) return absl::OkStatus();
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  THERIA_CUDA_RETURN_IF_ERROR(cudaMemcpyAsync(destination, source, size_bytes, kind, stream_));
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  return absl::OkStatus();
}

void DeviceMemory::Deallocate(void* data, std::size_t /*size_bytes*/) noexcept {
  // Nothing uses the block any more: Run and the copies return only when they are complete.
  cudaSetDevice(device_);
  cudaFreeAsync(data, stream_);
}

}  // namespace theria::cuda
