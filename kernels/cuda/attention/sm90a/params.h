#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_PARAMS_H_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_PARAMS_H_

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/attention/params.h"

// What the attention kernels for compute capability 9.0 read: the parameters of every kernel, and
// how the copy engine finds the tiles of each input. The maps of absent tensors are never read.

namespace theria::cuda::sm90a {

struct Params {
  AttentionParams attention;
  CUtensorMap q, k, v;
  CUtensorMap q_dot, k_dot, v_dot;
  CUtensorMap o_bar, o_bar_dot;
  std::uint32_t section_heads;  // heads whose tiles are taken together, see tile_queue.cuh
};

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_PARAMS_H_
