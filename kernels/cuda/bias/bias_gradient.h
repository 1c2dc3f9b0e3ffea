#ifndef THERIA_KERNELS_CUDA_BIAS_BIAS_GRADIENT_H_
#define THERIA_KERNELS_CUDA_BIAS_BIAS_GRADIENT_H_

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/api/host_device.h"
#include "kernels/api/tensor_view.h"
#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/compiled_kernel.h"

// bias_bar = S_bar and bias_bar_dot = S_bar_dot, summed over what the bias broadcasts over.
//
// A block owns a tile of the bias. It computes S_bar again for every batch, head and tile of scores
// that reads the tile, sums in registers, and writes once: the same bits on every run, and no
// memory of size seq_q x seq_kv but the bias. Where the bias has few tiles, several blocks share
// one, and a second kernel adds up their parts in order.

namespace theria::cuda {

// A bias of rank 4, extents of 1 where it broadcasts, and its derivatives, null where not wanted.
struct BiasGradients {
  std::int32_t extents[4];
  DType dtype;
  void* bias_bar;
  std::int64_t bias_bar_strides[4];
  void* bias_bar_dot;
  std::int64_t bias_bar_dot_strides[4];

  THERIA_HOST_DEVICE int outputs() const {
    return (bias_bar != nullptr ? 1 : 0) + (bias_bar_dot != nullptr ? 1 : 0);
  }
};

// `bias_bar` and `bias_bar_dot` are views of a mask that broadcasts to [batch, heads_q, seq_q,
// seq_kv], either of them null.
BiasGradients MakeBiasGradients(const MutableTensorView* bias_bar,
                                const MutableTensorView* bias_bar_dot);

// Bytes of device memory that LaunchBiasGradients needs for parts of sums; often 0.
std::size_t BiasPartsBytes(Arithmetic arithmetic, const AttentionParams& params,
                           const BiasGradients& gradients);

// Enqueues the kernels. Asynchronous on `stream`, does not synchronise.
// REQUIRES: params.general; the statistics, inverse_sums and row_keys of `params` are filled.
cudaError_t LaunchBiasGradients(Arithmetic arithmetic, const AttentionParams& params,
                                const BiasGradients& gradients, void* parts, cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_BIAS_BIAS_GRADIENT_H_
