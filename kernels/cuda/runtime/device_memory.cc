#include "kernels/cuda/runtime/device_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "kernels/api/message.h"
#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/device_pool.h"

namespace theria::cuda {

absl::StatusOr<std::unique_ptr<DeviceMemory>> DeviceMemory::Create(int device) {
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  std::unique_ptr<DeviceMemory> memory(new DeviceMemory(device, Message("cuda:", device)));
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamCreateWithFlags(&memory->stream_, cudaStreamNonBlocking));
  const absl::Status kept = KeepFreedMemory(device);
  if (!kept.ok()) return kept;
  return memory;
}

DeviceMemory::~DeviceMemory() {
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::StatusOr<Buffer> DeviceMemory::Allocate(std::size_t size_bytes) {
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  absl::StatusOr<void*> data = AllocateAsync(std::max<std::size_t>(size_bytes, 1), stream_);
  if (!data.ok()) return data.status();
  Buffer buffer(this, *data, size_bytes);
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  return buffer;
}

absl::Status DeviceMemory::CopyFromHost(void* destination, const void* source,
                                        std::size_t size_bytes) {
  return CopyAllFromHost({{destination, source, size_bytes}});
}

absl::Status DeviceMemory::CopyToHost(void* destination, const void* source,
                                      std::size_t size_bytes) {
  return CopyAllToHost({{destination, source, size_bytes}});
}

absl::Status DeviceMemory::CopyAllFromHost(absl::Span<const MemoryCopy> copies) {
  if (copies.empty()) return absl::OkStatus();
  absl::StatusOr<TransferPool::Borrowed> lane = Lane();
  if (!lane.ok()) return lane.status();
  return (*lane)->CopyFromHost(copies);
}

absl::Status DeviceMemory::CopyAllToHost(absl::Span<const MemoryCopy> copies) {
  if (copies.empty()) return absl::OkStatus();
  absl::StatusOr<TransferPool::Borrowed> lane = Lane();
  if (!lane.ok()) return lane.status();
  return (*lane)->CopyToHost(copies);
}

absl::StatusOr<TransferPool::Borrowed> DeviceMemory::Lane() {
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device_));
  return lanes_.Borrow();
}

void DeviceMemory::Deallocate(void* data, std::size_t /*size_bytes*/) noexcept {
  // Nothing uses the block any more: Run and the copies return only when they are complete.
  cudaSetDevice(device_);
  cudaFreeAsync(data, stream_);
}

absl::StatusOr<Buffer> PinnedMemory::Allocate(std::size_t size_bytes) {
  void* data = nullptr;
  THERIA_CUDA_RETURN_IF_ERROR(
      cudaHostAlloc(&data, std::max<std::size_t>(size_bytes, 1), cudaHostAllocPortable));
  return Buffer(this, data, size_bytes);
}

absl::Status PinnedMemory::CopyFromHost(void* destination, const void* source,
                                        std::size_t size_bytes) {
  std::memcpy(destination, source, size_bytes);
  return absl::OkStatus();
}

absl::Status PinnedMemory::CopyToHost(void* destination, const void* source,
                                      std::size_t size_bytes) {
  std::memcpy(destination, source, size_bytes);
  return absl::OkStatus();
}

void PinnedMemory::Deallocate(void* data, std::size_t /*size_bytes*/) noexcept {
  cudaFreeHost(data);
}

}  // namespace theria::cuda
