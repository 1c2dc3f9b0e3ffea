#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_TENSOR_MAPS_H_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_TENSOR_MAPS_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention/sm90a/params.h"
#include "kernels/cuda/registry.h"

// How the copy engine of compute capability 9.0 finds the tiles of each input.

namespace theria::cuda::sm90a {

// Whether maps can describe the inputs: strides along what has more than one element are positive
// and below 2^40 bytes. Broadcast tensors, of stride 0, are not mapped.
bool CanMap(const AttentionParams& params);

// The parameters of a launch of `variant`: maps whose boxes are its tiles, panels of 64 columns,
// swizzled by 128 bytes. REQUIRES: CanMap(attention).
// Errors: what cuTensorMapEncodeTiled or the look-up of it returns.
cudaError_t MakeParams(const KernelVariant& variant, const AttentionParams& attention,
                       Params* params);

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_TENSOR_MAPS_H_
