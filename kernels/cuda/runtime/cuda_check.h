#ifndef THERIA_KERNELS_CUDA_RUNTIME_CUDA_CHECK_H_
#define THERIA_KERNELS_CUDA_RUNTIME_CUDA_CHECK_H_

#include <cuda_runtime_api.h>

#include <string_view>

#include "absl/status/status.h"

namespace theria::cuda {

// The border between CUDA's errors and absl::Status: OK; RESOURCE_EXHAUSTED where device or pinned
// memory ran out; INTERNAL otherwise. The message names the step and CUDA's own error.
absl::Status CudaStatus(cudaError_t error, std::string_view step);

// INTERNAL, for good, once CudaStatus has seen an error that CUDA calls sticky: the context is
// corrupt, and every later call fails until the process ends. Thread-safe.
absl::Status ContextFault();

}  // namespace theria::cuda

// Returns from the enclosing function with the status of a CUDA call that failed.
#define THERIA_CUDA_RETURN_IF_ERROR(call)                                                \
  do {                                                                                   \
    const cudaError_t cuda_error = (call);                                               \
    if (cuda_error != cudaSuccess) return ::theria::cuda::CudaStatus(cuda_error, #call); \
  } while (false)

#endif  // THERIA_KERNELS_CUDA_RUNTIME_CUDA_CHECK_H_
