#ifndef THERIA_KERNELS_CUDA_RUNTIME_WORKSPACE_H_
#define THERIA_KERNELS_CUDA_RUNTIME_WORKSPACE_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/stream_backend.h"

namespace theria::cuda {

// Device memory that one computation needs on one stream: allocated and freed in stream order,
// freed on destruction. It is the caller's where the caller provides some, else the device pool's.
// Not thread-safe.
class Workspace {
 public:
  explicit Workspace(cudaStream_t stream, const CallerWorkspace& caller = {})
      : stream_(stream), caller_(caller) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // Uninitialised, 256-byte aligned, usable by work enqueued later on the stream.
  // Errors: RESOURCE_EXHAUSTED.
  absl::StatusOr<void*> Allocate(std::size_t size_bytes);

  cudaStream_t stream() const { return stream_; }
  // All that was allocated, each allocation rounded up to 256 bytes.
  std::size_t size_bytes() const { return size_bytes_; }

 private:
  struct Block {
    void* data;
    std::size_t size_bytes;
  };

  cudaStream_t stream_;
  CallerWorkspace caller_;
  std::size_t used_of_caller_ = 0;
  std::vector<Block> blocks_;
  std::size_t size_bytes_ = 0;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_WORKSPACE_H_
