#include "kernels/cuda/attention/sm90a/tensor_maps.h"

#include <cuda.h>
#include <cuda_runtime.h>

#include <array>
#include <cstdint>

namespace theria::cuda::sm90a {
namespace {

constexpr std::int64_t kElementBytes = 2;  // float16 and bfloat16

struct Extents {
  std::int64_t columns, rows, heads, batch;
};

// A tensor of the problem: its rows, its extents, and whether it is k, v or a tangent of them.
struct Tensor {
  const InputRows* rows;
  Extents extents;
  bool of_keys;
  CUtensorMap Params::*map;
};

std::array<Tensor, 8> Tensors(const AttentionParams& p) {
  const Extents q = {p.head_dim, p.seq_q, p.heads_q, p.batch};
  const Extents k = {p.head_dim, p.seq_kv, p.heads_kv, p.batch};
  const Extents v = {p.head_dim_v, p.seq_kv, p.heads_kv, p.batch};
  const Extents o = {p.head_dim_v, p.seq_q, p.heads_q, p.batch};
  return {{{&p.q, q, false, &Params::q},
           {&p.k, k, true, &Params::k},
           {&p.v, v, true, &Params::v},
           {&p.q_dot, q, false, &Params::q_dot},
           {&p.k_dot, k, true, &Params::k_dot},
           {&p.v_dot, v, true, &Params::v_dot},
           {&p.o_bar, o, false, &Params::o_bar},
           {&p.o_bar_dot, o, false, &Params::o_bar_dot}}};
}

bool CanMapStride(std::int64_t extent, std::int64_t stride) {
  constexpr std::int64_t kLimit = std::int64_t{1} << 40;
  return extent == 1 || (stride > 0 && stride * kElementBytes < kLimit);
}

using Encode = decltype(&cuTensorMapEncodeTiled);

// The driver's function, without linking to the driver.
cudaError_t FindEncode(Encode* encode) {
  static const struct Lookup {
    void* function = nullptr;
    cudaError_t error = cudaErrorUnknown;
    Lookup() {
      cudaDriverEntryPointQueryResult result;
      error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                               cudaEnableDefault, &result);
      if (error == cudaSuccess && result != cudaDriverEntryPointSuccess) {
        error = cudaErrorNotSupported;
      }
    }
  } lookup;
  *encode = reinterpret_cast<Encode>(lookup.function);
  return lookup.error;
}

}  // namespace

bool CanMap(const AttentionParams& params) {
  for (const Tensor& tensor : Tensors(params)) {
    if (tensor.rows->data == nullptr) continue;
    if (!CanMapStride(tensor.extents.rows, tensor.rows->row_stride) ||
        !CanMapStride(tensor.extents.heads, tensor.rows->head_stride) ||
        !CanMapStride(tensor.extents.batch, tensor.rows->batch_stride)) {
      return false;
    }
  }
  return true;
}

cudaError_t MakeParams(const KernelVariant& variant, const AttentionParams& attention,
                       Params* params) {
  Encode encode = nullptr;
  const cudaError_t error = FindEncode(&encode);
  if (error != cudaSuccess) return error;
  params->attention = attention;
  const CUtensorMapDataType type = variant.key.arithmetic == Arithmetic::kFloat16
                                       ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                                       : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
  for (const Tensor& tensor : Tensors(attention)) {
    if (tensor.rows->data == nullptr) continue;
    const Extents& extents = tensor.extents;
    const auto size = [](std::int64_t extent) { return static_cast<cuuint64_t>(extent); };
    // The stride along a single element is never used, but must be a legal one.
    const auto stride = [](std::int64_t extent, std::int64_t elements) {
      return static_cast<cuuint64_t>((extent == 1 ? 8 : elements) * kElementBytes);
    };
    const cuuint64_t sizes[] = {size(extents.columns), size(extents.rows), size(extents.heads),
                                size(extents.batch)};
    const cuuint64_t strides[] = {stride(extents.rows, tensor.rows->row_stride),
                                  stride(extents.heads, tensor.rows->head_stride),
                                  stride(extents.batch, tensor.rows->batch_stride)};
    const int box_rows = tensor.of_keys == variant.key_rows ? variant.rows : variant.columns;
    const cuuint32_t box[] = {64, static_cast<cuuint32_t>(box_rows), 1, 1};
    const cuuint32_t steps[] = {1, 1, 1, 1};
    const CUresult result =
        encode(&(params->*tensor.map), type, 4, const_cast<void*>(tensor.rows->data), sizes,
               strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
               CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result != CUDA_SUCCESS) return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}

}  // namespace theria::cuda::sm90a
