#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/runtime/strided_copy.h"

namespace theria::cuda {
namespace {

constexpr int kThreads = 256;

struct CopyParams {
  void* destination;
  const void* source;
  std::int64_t shape[kMaxRank];  // of the destination, leading ones added
  std::int64_t destination_strides[kMaxRank];
  std::int64_t source_strides[kMaxRank];
  std::int64_t source_columns;  // what lies past them becomes `rest`
  std::uint64_t rest;
};

template <typename Element>
__global__ void __launch_bounds__(kThreads) CopyKernel(const __grid_constant__ CopyParams params) {
  const std::int64_t count = params.shape[0] * params.shape[1] * params.shape[2] * params.shape[3];
  const std::int64_t step = static_cast<std::int64_t>(gridDim.x) * kThreads;
  for (std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
       index < count; index += step) {
    std::int64_t rest = index;
    std::int64_t to = 0;
    std::int64_t from = 0;
    std::int64_t column = 0;
#pragma unroll
    for (int axis = kMaxRank - 1; axis >= 0; --axis) {
      const std::int64_t at = rest % params.shape[axis];
      rest /= params.shape[axis];
      to += at * params.destination_strides[axis];
      from += at * params.source_strides[axis];
      if (axis == kMaxRank - 1) column = at;
    }
    auto value = static_cast<Element>(params.rest);
    if (column < params.source_columns) value = static_cast<const Element*>(params.source)[from];
    static_cast<Element*>(params.destination)[to] = value;
  }
}

void SetDestination(const MutableTensorView& destination, CopyParams* params) {
  params->destination = destination.data;
  const int lead = kMaxRank - destination.rank;
  for (int axis = 0; axis < kMaxRank; ++axis) {
    params->shape[axis] = axis < lead ? 1 : destination.shape[axis - lead];
    params->destination_strides[axis] = axis < lead ? 0 : destination.strides[axis - lead];
  }
}

cudaError_t Launch(const MutableTensorView& destination, const CopyParams& params,
                   cudaStream_t stream) {
  const std::int64_t count = destination.NumElements();
  if (count == 0) return cudaSuccess;
  const auto blocks =
      static_cast<unsigned>(std::min<std::int64_t>((count + kThreads - 1) / kThreads, 1 << 16));
  switch (ItemSizeBytes(destination.dtype)) {
    case 1:
      CopyKernel<std::uint8_t><<<blocks, kThreads, 0, stream>>>(params);
      break;
    case 2:
      CopyKernel<std::uint16_t><<<blocks, kThreads, 0, stream>>>(params);
      break;
    case 4:
      CopyKernel<std::uint32_t><<<blocks, kThreads, 0, stream>>>(params);
      break;
    default:
      CopyKernel<std::uint64_t><<<blocks, kThreads, 0, stream>>>(params);
      break;
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t CopyStrided(const MutableTensorView& destination, const TensorView& source,
                        cudaStream_t stream) {
  if (destination.NumElements() == 0) return cudaSuccess;
  const bool same = destination.shape == source.shape && destination.strides == source.strides;
  if (same && source.SpanElements() == source.NumElements()) {
    return cudaMemcpyAsync(destination.data, source.data, source.SizeBytes(),
                           cudaMemcpyDeviceToDevice, stream);
  }
  CopyParams params = {};
  SetDestination(destination, &params);
  params.source = source.data;
  const int lead = kMaxRank - source.rank;
  for (int axis = lead; axis < kMaxRank; ++axis) {
    params.source_strides[axis] = source.strides[axis - lead];
  }
  params.source_columns = source.shape[source.rank - 1];
  return Launch(destination, params, stream);
}

cudaError_t FillStrided(const MutableTensorView& destination, std::uint64_t bits,
                        cudaStream_t stream) {
  CopyParams params = {};
  SetDestination(destination, &params);
  params.rest = bits;
  return Launch(destination, params, stream);
}

}  // namespace theria::cuda
