#ifndef THERIA_KERNELS_CUDA_RUNTIME_STRIDED_COPY_H_
#define THERIA_KERNELS_CUDA_RUNTIME_STRIDED_COPY_H_

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/api/tensor_view.h"

namespace theria::cuda {

// Copies `source` to `destination`, of one dtype and one rank. Where the destination's last
// dimension is longer, the rest becomes zero; where it is shorter, the rest is left out.
// Asynchronous on `stream`, does not synchronise.
// REQUIRES: equal shapes but for the last dimension; data aligned to the element.
cudaError_t CopyStrided(const MutableTensorView& destination, const TensorView& source,
                        cudaStream_t stream);

// Sets every element to the low bits of `bits`. Asynchronous likewise.
cudaError_t FillStrided(const MutableTensorView& destination, std::uint64_t bits,
                        cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_RUNTIME_STRIDED_COPY_H_
