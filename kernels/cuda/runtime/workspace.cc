#include "kernels/cuda/runtime/workspace.h"

#include <cuda_runtime.h>

#include "kernels/cuda/runtime/device_pool.h"

namespace theria::cuda {

Workspace::~Workspace() {
  for (void* block : blocks_) cudaFreeAsync(block, stream_);
}

absl::StatusOr<void*> Workspace::Allocate(std::size_t size_bytes) {
  absl::StatusOr<void*> block = AllocateAsync(size_bytes, stream_);
  if (!block.ok()) return block.status();
  blocks_.push_back(*block);
  size_bytes_ += size_bytes;
  return block;
}

}  // namespace theria::cuda
