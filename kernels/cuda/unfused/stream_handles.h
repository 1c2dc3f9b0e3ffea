#ifndef THERIA_KERNELS_CUDA_UNFUSED_STREAM_HANDLES_H_
#define THERIA_KERNELS_CUDA_UNFUSED_STREAM_HANDLES_H_

#include <cublas_v2.h>
#include <cuda_runtime_api.h>

#include <map>
#include <mutex>

#include "absl/status/statusor.h"

namespace theria::cuda {

// A cuBLAS handle for each stream of a caller that is not waited for: the workspace of a handle may
// serve no second stream while the first still computes with it. Handles are kept until the end.
// Thread-safe.
class StreamHandles {
 public:
  StreamHandles() = default;
  ~StreamHandles();
  StreamHandles(const StreamHandles&) = delete;
  StreamHandles& operator=(const StreamHandles&) = delete;

  // A handle for the calling thread alone, as long as this lives.
  struct Locked {
    std::unique_lock<std::mutex> lock;
    cublasHandle_t handle;
  };

  // The handle of `stream`, on the current device. Errors: INTERNAL, RESOURCE_EXHAUSTED,
  // UNIMPLEMENTED.
  absl::StatusOr<Locked> Lock(cudaStream_t stream);

 private:
  std::mutex mutex_;
  std::map<cudaStream_t, cublasHandle_t> handles_;
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_STREAM_HANDLES_H_
