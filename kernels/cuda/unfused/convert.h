#ifndef THERIA_KERNELS_CUDA_UNFUSED_CONVERT_H_
#define THERIA_KERNELS_CUDA_UNFUSED_CONVERT_H_

#include <cuda_runtime_api.h>

#include "kernels/api/tensor_view.h"

namespace theria::cuda {

// Copies `source` to `destination`, rounding to nearest where the dtype is narrower. Any strides.
// Asynchronous on `stream`, does not synchronise.
// REQUIRES: equal shapes; floating point; at least one of the two is float32, or both are float64.
cudaError_t ConvertStrided(const MutableTensorView& destination, const TensorView& source,
                           cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_UNFUSED_CONVERT_H_
