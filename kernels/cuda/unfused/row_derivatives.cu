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
  Real* w = of_row(params.w);
  Real* w_dot = of_row(params.w_dot);
  const std::int64_t batch = plane / params.heads_q;
  const std::int64_t head = plane % params.heads_q;
  const auto [keys, diagonal] = mod.Row(batch, i);
  const auto row_of = [&](const std::int64_t(&strides)[4]) {
    return batch * strides[0] + head * strides[1] + i * strides[2];
  };
  const std::int64_t mask_row = row_of(mod.mask_strides);
  const std::int64_t bias_dot_row = row_of(params.bias_dot_strides);
  const Real alibi_slope =
      mod.alibi_slopes == nullptr
          ? Real(0)
          : OptionValue<Real>(mod.alibi_slopes, mod.alibi_dtype,
                              batch * mod.alibi_strides[0] + head * mod.alibi_strides[1]);
  const auto z = [&](std::int64_t j) {
    if (!mod.dropout.enabled()) return Real(1);
    return mod.dropout.Keeps(static_cast<std::uint64_t>(plane), i, j) ? keep_scale : Real(0);
  };

  Real maximum = -static_cast<Real>(INFINITY);
  for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
    Real score = -static_cast<Real>(INFINITY);
    if (j >= keys.begin && j < keys.end) {
      Real slope = Real(1);
      Real bend = Real(0);
      score = s[j] * scale;
      if (s_dot != nullptr) s_dot[j] *= scale;
      if (mod.softcap.enabled()) {
        const Real t = mod.softcap.Tanh(score);
        score = mod.softcap.Score(t);
        slope = mod.softcap.Slope(t);
        if (s_dot != nullptr) bend = mod.softcap.Bend(t, s_dot[j] *= slope);
      }
      if (w != nullptr) w[j] = slope;
      if (w_dot != nullptr) w_dot[j] = -bend;
      if (params.bias_dot != nullptr) {
        s_dot[j] += OptionValue<Real>(params.bias_dot, mod.mask_dtype,
                                      bias_dot_row + j * params.bias_dot_strides[3]);
      }
      if (alibi_slope != Real(0)) score += mod.Alibi(alibi_slope, diagonal, j);
      if (mod.mask != nullptr) {
        const auto value = MaskValue<Real>(mod, mask_row + j * mod.mask_strides[3]);
        score = value == -static_cast<Real>(INFINITY) ? value : score + value;
      }
    }
    s[j] = score;
    if (score == -static_cast<Real>(INFINITY)) {  // whose products may have overflowed: 0 * inf
      for (Real* products : {s_dot, p_bar, p_bar_dot, w, w_dot}) {
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
    if (s_dot != nullptr) mu += s[j] * s_dot[j];
    if (p_bar != nullptr) delta += s[j] * z(j) * p_bar[j];
  }
  mu = Reduce(mu, Sum<Real>());
  delta = Reduce(delta, Sum<Real>());
  const auto cotangent = [&](const void* of_lse) {
    return empty || of_lse == nullptr ? Real(0) : static_cast<const Real*>(of_lse)[row];
  };
  delta -= cotangent(params.lse_bar);

  const auto centred = [&](std::int64_t j) { return s_dot == nullptr ? Real(0) : s_dot[j] - mu; };
  Real delta_dot = 0;
  if (p_bar_dot != nullptr) {
    for (std::int64_t j = threadIdx.x; j < n; j += kThreads) {
      delta_dot += s[j] * z(j) * (p_bar_dot[j] + centred(j) * p_bar[j]);
    }
    delta_dot = Reduce(delta_dot, Sum<Real>());
  }
  delta_dot -= cotangent(params.lse_bar_dot);

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

template <typename Real>
__global__ void __launch_bounds__(kThreads)
    PullThroughCapKernel(const __grid_constant__ RowDerivativesParams params) {
  const std::int64_t count = params.batch * params.heads_q * params.seq_q * params.seq_kv;
  const auto of = [](void* matrix) { return static_cast<Real*>(matrix); };
  for (std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x; at < count;
       at += std::int64_t{gridDim.x} * kThreads) {
    const Real slope = of(params.w)[at];
    const Real s_bar = of(params.p_bar)[at];
    if (params.p_bar_dot != nullptr) {
      const Real bend = params.w_dot == nullptr ? Real(0) : of(params.w_dot)[at] * s_bar;
      of(params.p_bar_dot)[at] = slope * of(params.p_bar_dot)[at] + bend;
    }
    of(params.p_bar)[at] = slope * s_bar;
  }
}

// A warp for each element of the bias.
template <typename Real>
__global__ void __launch_bounds__(kThreads)
    BiasSumKernel(const __grid_constant__ BiasSumParams params) {
  const std::int64_t full[4] = {params.batch, params.heads_q, params.seq_q, params.seq_kv};
  std::int64_t elements = 1;
  std::int64_t shared = 1;  // scores for each element
  for (int axis = 0; axis < 4; ++axis) {
    elements *= params.extents[axis];
    shared *= full[axis] / params.extents[axis];
  }
  const int lane = threadIdx.x % 32;
  const std::int64_t warps = std::int64_t{gridDim.x} * (kThreads / 32);
  for (std::int64_t element = std::int64_t{blockIdx.x} * (kThreads / 32) + threadIdx.x / 32;
       element < elements; element += warps) {
    std::int64_t first[4];
    std::int64_t to = 0;
    std::int64_t rest = element;
    for (int axis = 3; axis >= 0; --axis) {
      first[axis] = rest % params.extents[axis];
      rest /= params.extents[axis];
      to += first[axis] * params.strides[axis];
    }
    Real sum = 0;
    for (std::int64_t index = lane; index < shared; index += 32) {
      std::int64_t at[4];
      std::int64_t left = index;
      for (int axis = 3; axis >= 0; --axis) {
        const std::int64_t repeats = full[axis] / params.extents[axis];
        at[axis] = first[axis] + left % repeats;
        left /= repeats;
      }
      const std::int64_t row = (at[0] * full[1] + at[1]) * full[2] + at[2];
      const Real value = static_cast<const Real*>(params.matrix)[row * full[3] + at[3]];
      // A NaN of the row reaches the pairs that take no part as 0 * NaN.
      if (isnan(value) && !IsVisible<Real>(params.score_mod, at[0], at[1], at[2], at[3])) continue;
      sum += value;
    }
    for (int distance = 16; distance > 0; distance /= 2) {
      sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    }
    if (lane == 0) StoreFloating(params.data, params.data_dtype, to, sum);
  }
}

unsigned BlocksOf(std::int64_t count) {
  return static_cast<unsigned>(std::clamp<std::int64_t>(count, 1, 1 << 20));
}

}  // namespace

cudaError_t LaunchPullThroughCap(const RowDerivativesParams& params, DType dtype,
                                 cudaStream_t stream) {
  const std::int64_t count = params.batch * params.heads_q * params.seq_q * params.seq_kv;
  const unsigned blocks = BlocksOf((count + kThreads - 1) / kThreads);
  if (dtype == DType::kFloat64) {
    PullThroughCapKernel<double><<<blocks, kThreads, 0, stream>>>(params);
  } else {
    PullThroughCapKernel<float><<<blocks, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

cudaError_t LaunchBiasSum(const BiasSumParams& params, DType dtype, cudaStream_t stream) {
  const std::int64_t elements =
      params.extents[0] * params.extents[1] * params.extents[2] * params.extents[3];
  const unsigned blocks = BlocksOf((elements * 32 + kThreads - 1) / kThreads);
  if (dtype == DType::kFloat64) {
    BiasSumKernel<double><<<blocks, kThreads, 0, stream>>>(params);
  } else {
    BiasSumKernel<float><<<blocks, kThreads, 0, stream>>>(params);
  }
  return cudaGetLastError();
}

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
