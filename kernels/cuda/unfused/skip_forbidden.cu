#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/attention/score_tile.cuh"
#include "kernels/cuda/unfused/skip_forbidden.h"

namespace theria::cuda {
namespace {

constexpr int kThreads = 128;

template <typename Real>
__device__ Real VisibleSum(const WeightedSumParams& params, std::int64_t plane, std::int64_t row,
                           std::int64_t column) {
  const std::int64_t queries = params.group * params.seq_q;
  const std::int64_t inner = params.of_keys ? queries : params.seq_kv;
  Real sum = 0;
  for (std::int64_t x = 0; x < inner; ++x) {
    const std::int64_t query = params.of_keys ? x : row;
    const std::int64_t key = params.of_keys ? row : x;
    // `query` counts the rows of all heads that share the key head.
    const std::int64_t head = plane % params.heads_kv * params.group + query / params.seq_q;
    if (!IsVisible<Real>(params.score_mod, plane / params.heads_kv, head, query % params.seq_q,
                         key)) {
      continue;
    }
    for (int pair = 0; pair < 2; ++pair) {
      if (params.a[pair] == nullptr) continue;
      const auto* a = static_cast<const Real*>(params.a[pair]) + plane * queries * params.seq_kv;
      const auto* b = static_cast<const Real*>(params.b[pair]) + plane * inner * params.columns;
      sum += a[query * params.seq_kv + key] * b[x * params.columns + column];
    }
  }
  return sum * static_cast<Real>(params.alpha);
}

template <typename Real>
__global__ void __launch_bounds__(kThreads)
    SkipForbiddenKernel(const __grid_constant__ WeightedSumParams params) {
  const std::int64_t rows = params.of_keys ? params.seq_kv : params.group * params.seq_q;
  const std::int64_t count = params.batch * params.heads_kv * rows * params.columns;
  auto* c = static_cast<Real*>(params.c);
  for (std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; at < count;
       at += std::int64_t{gridDim.x} * kThreads) {
    if (!isnan(c[at])) continue;
    const std::int64_t row = at / params.columns;
    c[at] = VisibleSum<Real>(params, row / rows, row % rows, at % params.columns);
  }
}

}  // namespace

cudaError_t LaunchSkipForbidden(const WeightedSumParams& params, DType dtype, cudaStream_t stream) {
  const std::int64_t rows = params.of_keys ? params.seq_kv : params.group * params.seq_q;
  const std::int64_t count = params.batch * params.heads_kv * rows * params.columns;
  const auto blocks =
      static_cast<unsigned>(std::clamp<std::int64_t>((count + kThreads - 1) / kThreads, 1, 4096));
  if (dtype == DType::kFloat64) {
    SkipForbiddenKernel<double><<<blocks, kThreads, 0, stream>>>(params);
  } else {
    SkipForbiddenKernel<float><<<blocks, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace theria::cuda
