#include "kernels/cuda/runtime/workspace.h"

#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/api/message.h"
#include "kernels/cuda/runtime/device_pool.h"

namespace theria::cuda {
namespace {

constexpr std::size_t kAlignment = 256;

}  // namespace

Workspace::~Workspace() {
  for (const Block& block : blocks_) {
    if (caller_.allocate == nullptr) {
      cudaFreeAsync(block.data, stream_);
    } else if (caller_.deallocate != nullptr) {
      caller_.deallocate(caller_.user, block.data, block.size_bytes, stream_);
    }
  }
}

absl::StatusOr<void*> Workspace::Allocate(std::size_t size_bytes) {
  // At least one unit: allocators may refuse 0 bytes, which the tensors of empty rows have.
  const std::size_t rounded =
      (std::max<std::size_t>(size_bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  size_bytes_ += rounded;
  if (caller_.block != nullptr && rounded <= caller_.block_bytes - used_of_caller_) {
    void* const data = static_cast<char*>(caller_.block) + used_of_caller_;
    used_of_caller_ += rounded;
    return data;
  }
  if (caller_.allocate != nullptr) {
    void* const data = caller_.allocate(caller_.user, rounded, stream_);
    if (data == nullptr) {
      return absl::ResourceExhaustedError(
          Message("the caller's allocator has no ", rounded, " bytes of workspace"));
    }
    blocks_.push_back({data, rounded});
    return data;
  }
  absl::StatusOr<void*> data = AllocateAsync(rounded, stream_);
  if (!data.ok()) return data.status();
  blocks_.push_back({*data, rounded});
  return data;
}

}  // namespace theria::cuda
