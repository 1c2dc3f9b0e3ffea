#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/runtime/strided_copy.h"
#include "kernels/cuda/unfused/convert.h"

namespace theria::cuda {
namespace {

constexpr int kThreads = 256;

struct ConvertParams {
  void* destination;
  const void* source;
  std::int64_t shape[kMaxRank];  // leading ones added
  std::int64_t destination_strides[kMaxRank];
  std::int64_t source_strides[kMaxRank];
};

template <typename To, typename From>
__global__ void __launch_bounds__(kThreads)
    ConvertKernel(const __grid_constant__ ConvertParams params) {
  const std::int64_t count = params.shape[0] * params.shape[1] * params.shape[2] * params.shape[3];
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       index < count; index += step) {
    std::int64_t rest = index;
    std::int64_t to = 0;
    std::int64_t from = 0;
#pragma unroll
    for (int axis = kMaxRank - 1; axis >= 0; --axis) {
      const std::int64_t at = rest % params.shape[axis];
      rest /= params.shape[axis];
      to += at * params.destination_strides[axis];
      from += at * params.source_strides[axis];
    }
    static_cast<To*>(params.destination)[to] =
        static_cast<To>(static_cast<float>(static_cast<const From*>(params.source)[from]));
  }
}

template <typename To>
void LaunchFrom(DType from, unsigned blocks, const ConvertParams& params, cudaStream_t stream) {
  if (from == DType::kFloat16) {
    ConvertKernel<To, __half><<<blocks, kThreads, 0, stream>>>(params);
  } else if (from == DType::kBFloat16) {
    ConvertKernel<To, __nv_bfloat16><<<blocks, kThreads, 0, stream>>>(params);
  } else {
    ConvertKernel<To, float><<<blocks, kThreads, 0, stream>>>(params);
  }
}

}  // namespace

cudaError_t ConvertStrided(const MutableTensorView& destination, const TensorView& source,
                           cudaStream_t stream) {
  if (destination.dtype == source.dtype) return CopyStrided(destination, source, stream);
  if (destination.NumElements() == 0) return cudaSuccess;
  ConvertParams params = {destination.data, source.data, {}, {}, {}};
  const int lead = kMaxRank - destination.rank;
  for (int axis = 0; axis < kMaxRank; ++axis) {
    params.shape[axis] = axis < lead ? 1 : destination.shape[axis - lead];
    params.destination_strides[axis] = axis < lead ? 0 : destination.strides[axis - lead];
    params.source_strides[axis] = axis < lead ? 0 : source.strides[axis - lead];
  }
  const auto blocks = static_cast<unsigned>(
      std::min<std::int64_t>((destination.NumElements() + kThreads - 1) / kThreads, 1 << 16));
  if (destination.dtype == DType::kFloat16) {
    LaunchFrom<__half>(source.dtype, blocks, params, stream);
  } else if (destination.dtype == DType::kBFloat16) {
    LaunchFrom<__nv_bfloat16>(source.dtype, blocks, params, stream);
  } else {
    LaunchFrom<float>(source.dtype, blocks, params, stream);
  }
  return cudaGetLastError();
}

}  // namespace theria::cuda
