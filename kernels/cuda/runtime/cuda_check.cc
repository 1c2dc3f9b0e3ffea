#include "kernels/cuda/runtime/cuda_check.h"

#include <cuda_runtime.h>

#include <atomic>

#include "kernels/api/message.h"

namespace theria::cuda {
namespace {

std::atomic<cudaError_t> context_fault{cudaSuccess};

// Those of which CUDA's manual says that the process must be terminated and relaunched.
bool IsSticky(cudaError_t error) {
  switch (error) {
    case cudaErrorAssert:
    case cudaErrorContextIsDestroyed:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorNvlinkUncorrectable:
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
#endif
      return true;
    default:
      return false;
  }
}

}  // namespace

absl::Status CudaStatus(cudaError_t error, std::string_view step) {
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string message =
      Message(step, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // not sticky; the next call shall not see it
    return absl::ResourceExhaustedError(message);
  }
  cudaError_t none = cudaSuccess;
  if (IsSticky(error)) context_fault.compare_exchange_strong(none, error);
  return absl::InternalError(message);
}

absl::Status ContextFault() {
  const cudaError_t error = context_fault.load();
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(Message("the device's context is lost: ", cudaGetErrorName(error),
                                     " (", cudaGetErrorString(error), ")"));
}

}  // namespace theria::cuda
