#include "kernels/cuda/runtime/workspace.h"

#include <cuda_runtime.h>

#include "kernels/cuda/runtime/cuda_check.h"

namespace theria::cuda {

Workspace::~Workspace() {
  for (void* block : blocks_) cudaFreeAsync(block, stream_);
}

absl::StatusOr<void*> Workspace::Allocate(std::size_t size_bytes) {
  void* block = nullptr;
  THERIA_CUDA_RETURN_IF_ERROR(cudaMallocAsync(&block, size_bytes, stream_));
  blocks_.push_back(block);
  size_bytes_ += size_bytes;
  return block;
}

}  // namespace theria::cuda
