#include "kernels/cuda/runtime/cuda_check.h"

#include <cuda_runtime.h>

#include "kernels/api/message.h"

namespace theria::cuda {

absl::Status CudaStatus(cudaError_t error, std::string_view step) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      Message(step, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky; the next call shall not see it
    return absl::ResourceExhaustedError(message);
  }
  return absl::InternalError(message);
}

}  // namespace theria::cuda
