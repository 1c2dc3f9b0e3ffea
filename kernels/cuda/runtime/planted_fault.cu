#include <cuda_runtime.h>

#include "kernels/cuda/backend.h"
#include "kernels/cuda/runtime/cuda_check.h"

namespace theria {
namespace {

__global__ void TrapKernel() { __trap(); }

}  // namespace

absl::Status PlantCudaFault(int device) {
  THERIA_CUDA_RETURN_IF_ERROR(cudaSetDevice(device));
  TrapKernel<<<1, 1>>>();
  THERIA_CUDA_RETURN_IF_ERROR(cudaGetLastError());
  // The fault shows where somebody waits next; that shall be whoever computes.
  return absl::OkStatus();
}

}  // namespace theria
