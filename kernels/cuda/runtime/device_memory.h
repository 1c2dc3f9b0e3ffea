#ifndef THERIA_KERNELS_CUDA_RUNTIME_DEVICE_MEMORY_H_
#define THERIA_KERNELS_CUDA_RUNTIME_DEVICE_MEMORY_H_

#include <cuda_runtime_api.h>

#include <memory>
#include <string>

#include "kernels/api/memory.h"
#include "kernels/cuda/runtime/transfer.h"

namespace theria::cuda {

// The memory of one device, from its stream-ordered pool. Freed blocks stay with the pool, so that
// allocation costs microseconds. Thread-safe. Allocations and copies run on streams of their own
// and are complete on return; pageable host memory is staged through pinned blocks.
class DeviceMemory final : public Memory {
 public:
  // Errors: INTERNAL.
  static absl::StatusOr<std::unique_ptr<DeviceMemory>> Create(int device);
  ~DeviceMemory() override;

  std::string_view name() const override { return name_; }
  bool host_accessible() const override { return false; }
  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override;
  absl::Status CopyFromHost(void* destination, const void* source, std::size_t size_bytes) override;
  absl::Status CopyToHost(void* destination, const void* source, std::size_t size_bytes) override;
  absl::Status CopyAllFromHost(absl::Span<const MemoryCopy> copies) override;
  absl::Status CopyAllToHost(absl::Span<const MemoryCopy> copies) override;
  absl::StatusOr<Buffer> Import(std::string_view ipc_handle, std::size_t size_bytes) override;
  absl::Status CopyWithin(void* destination, const void* source, std::size_t size_bytes) override;

 private:
  DeviceMemory(int device, std::string name) : device_(device), name_(std::move(name)) {}
  absl::StatusOr<TransferPool::Borrowed> Lane();
  void Deallocate(void* data, std::size_t size_bytes) noexcept override;

  int device_;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  TransferPool lanes_;
};

// Allocations of other processes, opened by DeviceMemory::Import; their end closes them.
class LentMemory final : public Memory {
 public:
  std::string_view name() const override { return "lent"; }
  bool host_accessible() const override { return false; }
  // Errors: UNIMPLEMENTED, each: nothing is made here, and copies are DeviceMemory's.
  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override;
  absl::Status CopyFromHost(void* destination, const void* source, std::size_t size_bytes) override;
  absl::Status CopyToHost(void* destination, const void* source, std::size_t size_bytes) override;

 private:
  void Deallocate(void* data, std::size_t size_bytes) noexcept override;
};

// Page-locked host memory, which the device copies from and to without staging. Thread-safe; each
// allocation takes about as long as touching its pages.
class PinnedMemory final : public Memory {
 public:
  std::string_view name() const override { return "pinned"; }
  bool host_accessible() const override { return true; }
  absl::StatusOr<Buffer> Allocate(std::size_t size_bytes) override;
  absl::Status CopyFromHost(void* destination, const void* source, std::size_t size_bytes) override;
  absl::Status CopyToHost(void* destination, const void* source, std::size_t size_bytes) override;

 private:
  void Deallocate(void* data, std::size_t size_bytes) noexcept override;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_DEVICE_MEMORY_H_
