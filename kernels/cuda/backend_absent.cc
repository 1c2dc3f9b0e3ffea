#include "absl/status/status.h"
#include "kernels/cuda/backend.h"

// The backend of a build without CUDA.

namespace theria {

int CudaDeviceCount() { return 0; }

absl::Status PlantCudaFault(int /*device*/) {
  return absl::UnavailableError("this build has no CUDA backend");
}

absl::StatusOr<std::unique_ptr<StreamBackend>> MakeCudaBackend(
    const CudaBackendOptions& /*options*/) {
  return absl::UnavailableError("this build has no CUDA backend (configure with -DTHERIA_CUDA=ON)");
}

std::string CudaKernelNames() { return ""; }

}  // namespace theria
