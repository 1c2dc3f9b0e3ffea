#include "kernels/cuda/runtime/device_memory.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstring>

#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/device_guard.h"
#include "kernels/cuda/runtime/device_pool.h"

namespace theria::cuda {
namespace {

constexpr char kHandleField[] = "cuda_ipc_handle";

absl::Status NotOfLent() { return absl::UnimplementedError("lent memory is only lent"); }

// From the base of an allocation to its end. The runtime does not tell, the driver does.
absl::StatusOr<std::size_t> AllocatedBytes(void* base) {
  using GetAddressRange = int (*)(unsigned long long*, std::size_t*, unsigned long long);
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
#if CUDART_VERSION >= 12050
  THERIA_CUDA_RETURN_IF_ERROR(cudaGetDriverEntryPointByVersion(
      "cuMemGetAddressRange", &entry, CUDART_VERSION, cudaEnableDefault, &found));
#else
  THERIA_CUDA_RETURN_IF_ERROR(
      cudaGetDriverEntryPoint("cuMemGetAddressRange", &entry, cudaEnableDefault, &found));
#endif
  const auto address = reinterpret_cast<unsigned long long>(base);
  unsigned long long start = 0;
  std::size_t size_bytes = 0;
  if (found != cudaDriverEntryPointSuccess ||
      reinterpret_cast<GetAddressRange>(entry)(&start, &size_bytes, address) != 0) {
    return absl::InternalError("the driver does not tell the size of an allocation");
  }
  return start + size_bytes - address;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceMemory>> DeviceMemory::Create(int device) {
  const DeviceGuard guard(device);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
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
  const DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
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
  const DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
  return lanes_.Borrow();
}

void DeviceMemory::Deallocate(void* data, std::size_t /*size_bytes*/) noexcept {
  // Nothing uses the block any more: Run and the copies return only when they are complete.
  const DeviceGuard guard(device_);
  cudaFreeAsync(data, stream_);
}

absl::StatusOr<Buffer> DeviceMemory::Import(std::string_view ipc_handle, std::size_t size_bytes) {
  static LentMemory& lent = *new LentMemory;
  cudaIpcMemHandle_t handle;
  if (ipc_handle.size() != sizeof(handle)) {
    return InvalidField(kHandleField,
                        Message("has ", ipc_handle.size(), " bytes, must have ", sizeof(handle)));
  }
  std::memcpy(&handle, ipc_handle.data(), sizeof(handle));
  const DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
  void* data = nullptr;
  const cudaError_t opened = cudaIpcOpenMemHandle(&data, handle, cudaIpcMemLazyEnablePeerAccess);
  if (opened != cudaSuccess) {
    cudaGetLastError();  // not the next call's error
    return InvalidField(kHandleField, Message("cannot be opened: ", cudaGetErrorString(opened)));
  }
  Buffer buffer(&lent, data, size_bytes);
  // A kernel that reads beyond the end of it would end the server.
  const absl::StatusOr<std::size_t> allocated_bytes = AllocatedBytes(data);
  if (!allocated_bytes.ok()) return allocated_bytes.status();
  cudaPointerAttributes attributes;
  THERIA_CUDA_RETURN_IF_ERROR(cudaPointerGetAttributes(&attributes, data));
  if (attributes.device != device_ || size_bytes > *allocated_bytes) {
    return InvalidField(kHandleField,
                        Message("names ", *allocated_bytes, " bytes of GPU ", attributes.device,
                                ", must be at least ", size_bytes, " of GPU ", device_));
  }
  return buffer;
}

absl::Status DeviceMemory::CopyWithin(void* destination, const void* source,
                                      std::size_t size_bytes) {
  const DeviceGuard guard(device_);
  THERIA_CUDA_RETURN_IF_ERROR(guard.error());
  THERIA_CUDA_RETURN_IF_ERROR(
      cudaMemcpyAsync(destination, source, size_bytes, cudaMemcpyDeviceToDevice, stream_));
  THERIA_CUDA_RETURN_IF_ERROR(cudaStreamSynchronize(stream_));
  return absl::OkStatus();
}

absl::StatusOr<Buffer> LentMemory::Allocate(std::size_t /*size_bytes*/) { return NotOfLent(); }
absl::Status LentMemory::CopyFromHost(void* /*destination*/, const void* /*source*/,
                                      std::size_t /*size_bytes*/) {
  return NotOfLent();
}
absl::Status LentMemory::CopyToHost(void* /*destination*/, const void* /*source*/,
                                    std::size_t /*size_bytes*/) {
  return NotOfLent();
}
void LentMemory::Deallocate(void* data, std::size_t /*size_bytes*/) noexcept {
  cudaIpcCloseMemHandle(data);
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
