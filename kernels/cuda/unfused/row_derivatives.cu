#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/attention/score_tile.cuh"
#include "kernels/cuda/unfused/row_derivatives.h"

namespace theria::cuda {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float Exp(float x) { return expf(x); }
__device__ __forceinline__ double Exp(double x) { return exp(x); }
__device__ __forceinline__ float Log(float x) { return logf(x); }
__device__ __forceinline__ double Log(double x) { return log(x); }

// combine over the block; every thread gets the result.
template <typename Real, typename Combine>
__device__ Real Reduce(Real x, const Combine& combine) {
  __shared__ Real partial[kThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    x = combine(x, __shfl_xor_sync(0xffffffffu, x, distance));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  x = partial[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) x = combine(x, partial[warp]);
  return x;
}

template <typename Real>
struct Sum {
  __device__ Real operator()(Real x, Real y) const { return x + y; }
};
template <typename Real>
struct Maximum {
  // NaN if either is.
  __device__ Real operator()(Real x, Real y) const { return x > y || x != x ? x : y; }
};

// One row of scores.
template <typename Real>
__device__ void DifferentiateRow(const RowDerivativesParams& params, std::int64_t row) {
  const std::int64_t n = params.seq_kv;
  const std::int64_t i = row % params.seq_q;
  const std::int64_t plane = row / params.seq_q;
  const ScoreMod& mod = params.score_mod;
  const auto scale = static_cast<Real>(params.scale);
  const auto keep_scale = static_cast<Real>(mod.dropout.keep_scale);
  const auto of_row = [&](void* matrix) {
    return matrix == nullptr ? nullptr : static_cast<Real*>(matrix) + row * n;
  };
  Real* s = of_row(params.s);
  Real* s_dot = of_row(params.s_dot);
  Real* p_bar = of_row(params.p_bar);
  Real* p_bar_dot = of_row(params.p_bar_dot);
  const KeyRange keys = mod.Keys(plane / params.heads_q, i);
  const std::int64_t mask_row = plane / params.heads_q * mod.mask_strides[0] +
                                plane % params.heads_q * mod.mask_strides[1] +
                                i * mod.mask_strides[2];
  const auto z = [&](std::int64_t j) {
    if (!mod.dropout.enabled()) return Real(1);
    return mod.dropout.Keeps(static_cast<std::uint64_t>(plane), i, j) ? keep_scale : Real(0);
  };

  Real maximum = -static_cast<Real>(INFINITY);
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    Real score = -static_cast<Real>(INFINITY);
    if (j >= keys.begin && j < keys.end) {
      score = s[j] * scale;
      if (mod.mask != nullptr) {
        const auto value = MaskValue<Real>(mod, mask_row + j * mod.mask_strides[3]);
        score = value == -static_cast<Real>(INFINITY) ? value : score + value;
      }
    }
    s[j] = score;
    if (score == -static_cast<Real>(INFINITY)) {  // whose products may have overflowed: 0 * inf
      for (Real* products : {s_dot, p_bar, p_bar_dot}) {
        if (products != nullptr) products[j] = Real(0);
      }
    }
    maximum = Maximum<Real>()(maximum, score);
  }
  maximum = Reduce(maximum, Maximum<Real>());
  const bool empty = maximum == -static_cast<Real>(INFINITY);
  Real sum = 0;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    s[j] = empty ? Real(0) : Exp(s[j] - maximum);
    sum += s[j];
  }
  sum = Reduce(sum, Sum<Real>());
  const Real inverse = empty ? Real(0) : Real(1) / sum;

  Real mu = 0;
  Real delta = 0;
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    s[j] *= inverse;
    if (s_dot != nullptr) mu += s[j] * (s_dot[j] *= scale);
    if (p_bar != nullptr) delta += s[j] * z(j) * p_bar[j];
  }
  mu = Reduce(mu, Sum<Real>());
  delta = Reduce(delta, Sum<Real>());

  const auto centred = [&](std::int64_t j) { return s_dot == nullptr ? Real(0) : s_dot[j] - mu; };
  Real delta_dot = 0;
  if (p_bar_dot != nullptr) {
    for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
      delta_dot += s[j] * z(j) * (p_bar_dot[j] + centred(j) * p_bar[j]);
    }
    delta_dot = Reduce(delta_dot, Sum<Real>());
  }

  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    const Real p = s[j];
    const Real kept = z(j);
    const Real p_dot = p * centred(j);
    if (p_bar != nullptr) {
      const Real s_bar = p * (kept * p_bar[j] - delta);
      if (p_bar_dot != nullptr) {
        p_bar_dot[j] = s_bar * centred(j) + p * (kept * p_bar_dot[j] - delta_dot);
      }
      p_bar[j] = s_bar;
    }
    if (s_dot != nullptr) s_dot[j] = p_dot * kept;
    s[j] = p * kept;
  }
  if (threadIdx.x == 0) {
    if (params.lse != nullptr) {
      static_cast<Real*>(params.lse)[row] =
          empty ? -static_cast<Real>(INFINITY) : maximum + Log(sum);
    }
    if (params.lse_dot != nullptr) static_cast<Real*>(params.lse_dot)[row] = mu;
  }
}

template <typename Real>
__global__ void __launch_bounds__(kThreads)
    RowDerivativesKernel(const __grid_constant__ RowDerivativesParams params) {
  const std::int64_t rows = params.batch * params.heads_q * params.seq_q;
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    DifferentiateRow<Real>(params, row);
  }
}

}  // namespace

cudaError_t LaunchRowDerivatives(const RowDerivativesParams& params, DType dtype,
                                 cudaStream_t stream) {
  const auto blocks = static_cast<unsigned>(
      std::min<std::int64_t>(params.batch * params.heads_q * params.seq_q, 1 << 20));
  if (dtype == DType::kFloat64) {
    RowDerivativesKernel<double><<<blocks, kThreads, 0, stream>>>(params);
  } else {
    RowDerivativesKernel<float><<<blocks, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

}  // namespace theria::cuda
