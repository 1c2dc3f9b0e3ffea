#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/score_tile.cuh"
#include "kernels/cuda/recompute/recompute.h"

namespace theria::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxColumns = 256;  // head_dim and head_dim_v of the fused kernels
constexpr int kColumnsOfThread = kMaxColumns / kThreads;

__device__ __forceinline__ float Exp(float x) { return expf(x); }
__device__ __forceinline__ double Exp(double x) { return exp(x); }

// The block's sum; every thread gets it.
template <typename Real>
__device__ Real BlockSum(Real x) {
  __shared__ Real partial[kThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    x += __shfl_xor_sync(0xffffffffu, x, distance);
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  Real sum = partial[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) sum += partial[warp];
  return sum;
}

// The block's maximum; NaN if any is.
template <typename Real>
__device__ Real BlockMaximum(Real x) {
  __shared__ Real partial[kThreads / 32];
  const auto larger = [](Real a, Real b) { return a > b || a != a ? a : b; };
  for (int distance = 16; distance > 0; distance /= 2) {
    x = larger(x, __shfl_xor_sync(0xffffffffu, x, distance));
  }
  __syncthreads();
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  Real maximum = partial[0];
  for (int warp = 1; warp < kThreads / 32; ++warp) maximum = larger(maximum, partial[warp]);
  return maximum;
}

// Waits until the kernel before this one in the stream has ended and its writes are visible.
__device__ __forceinline__ void WaitForFlags() {
#if __CUDA_ARCH__ >= 900
  cudaGridDependencySynchronize();
#endif
}

// Whether a thread of the block finds a flag of a head set. The caller combines the threads'
// answers.
__device__ bool FindsFlag(const std::uint32_t* flags, std::int64_t head, int rows) {
  if (flags == nullptr) return false;
  const auto groups = static_cast<int>(NanGroups(rows));
  const std::uint32_t* first = flags + head * groups;
  bool any = false;
  for (int at = threadIdx.x; at < groups; at += kThreads) any |= first[at] != 0;
  return any;
}

// Everything that the formulas need of the pair (i, j) before the statistics of its row.
template <typename Real>
struct Pair {
  bool visible;
  Real s, s_dot;
  Real w, w_dot;          // the slope of the soft cap and its tangent: 1 and 0 without one
  Real p_bar, p_bar_dot;  // with dropout
  Real z;                 // 0 or 1 / (1 - probability)
};

template <typename Real>
struct RowValues {
  Real maximum, inverse_sum, mu, delta, delta_dot;
};

// One block's view of the problem.
template <typename Element, typename Real>
class Problem {
 public:
  __device__ Problem(const AttentionParams& params, int batch, int head)
      : params_(params), batch_(batch), head_(head), head_kv_(head / params.group) {}

  __device__ KeyRange Keys(int i) const { return params_.score_mod.Keys(batch_, i); }

  __device__ Pair<Real> PairOf(int i, int j) const {
    Pair<Real> pair = {};
    const ScoreMod& mod = params_.score_mod;
    const ScoreRow row = mod.Row(batch_, i);
    if (j < row.keys.begin || j >= row.keys.end) return pair;
    Real bias = Bias(i, j);
    if (bias == -static_cast<Real>(INFINITY)) return pair;
    pair.visible = true;
    if (mod.alibi_slopes != nullptr) bias += mod.Alibi(AlibiSlope(), row.diagonal, j);
    const auto scale = static_cast<Real>(params_.scale);
    const Real product = Dot(params_.q, i, params_.k, j, params_.head_dim);
    pair.s_dot = scale * (Dot(params_.q_dot, i, params_.k, j, params_.head_dim) +
                          Dot(params_.q, i, params_.k_dot, j, params_.head_dim));
    pair.w = Real(1);
    if (mod.softcap.enabled()) {
      const Real t = mod.softcap.Tanh(product * scale);
      pair.w = mod.softcap.Slope(t);
      pair.s = FusedProduct(static_cast<Real>(mod.softcap.cap), t, bias);
      pair.s_dot *= pair.w;
      pair.w_dot = -mod.softcap.Bend(t, pair.s_dot);
    } else {
      pair.s = FusedProduct(product, scale, bias);
    }
    if (params_.bias_dot != nullptr) {
      const std::int64_t(&strides)[4] = params_.bias_dot_strides;
      pair.s_dot += OptionValue<Real>(
          params_.bias_dot, mod.mask_dtype,
          batch_ * strides[0] + head_ * strides[1] + i * strides[2] + j * strides[3]);
    }
    pair.z = Real(1);
    if (params_.score_mod.dropout.enabled()) {
      const auto plane = static_cast<std::uint64_t>(batch_) * params_.heads_q + head_;
      pair.z = params_.score_mod.dropout.Keeps(plane, i, j)
                   ? static_cast<Real>(params_.score_mod.dropout.keep_scale)
                   : Real(0);
    }
    pair.p_bar = pair.z * Dot(params_.o_bar, i, params_.v, j, params_.head_dim_v);
    pair.p_bar_dot = pair.z * (Dot(params_.o_bar_dot, i, params_.v, j, params_.head_dim_v) +
                               Dot(params_.o_bar, i, params_.v_dot, j, params_.head_dim_v));
    return pair;
  }

  // Element `column` of a row of queries or of keys; 0 where the tensor is absent.
  __device__ Real OfQuery(const InputRows& rows, int i, int column) const {
    return At(rows, head_, i, column);
  }
  __device__ Real OfKey(const InputRows& rows, int j, int column) const {
    return At(rows, head_kv_, j, column);
  }

 private:
  __device__ Real At(const InputRows& rows, int head, int row, int column) const {
    if (rows.data == nullptr) return Real(0);
    return static_cast<Real>(RowPointer<Element>(rows, batch_, head, row)[column]);
  }

  __device__ Real Dot(const InputRows& of_query, int i, const InputRows& of_key, int j,
                      int columns) const {
    if (of_query.data == nullptr || of_key.data == nullptr) return Real(0);
    const Element* a = RowPointer<Element>(of_query, batch_, head_, i);
    const Element* b = RowPointer<Element>(of_key, batch_, head_kv_, j);
    Real sum = 0;
    for (int column = 0; column < columns; ++column) {
      sum += static_cast<Real>(a[column]) * static_cast<Real>(b[column]);
    }
    return sum;
  }

  __device__ Real Bias(int i, int j) const {
    const ScoreMod& mod = params_.score_mod;
    if (mod.mask == nullptr) return Real(0);
    return MaskValue<Real>(mod, batch_ * mod.mask_strides[0] + head_ * mod.mask_strides[1] +
                                    i * mod.mask_strides[2] + j * mod.mask_strides[3]);
  }

  __device__ Real AlibiSlope() const {
    const ScoreMod& mod = params_.score_mod;
    return OptionValue<Real>(mod.alibi_slopes, mod.alibi_dtype,
                             batch_ * mod.alibi_strides[0] + head_ * mod.alibi_strides[1]);
  }

  const AttentionParams& params_;
  int batch_, head_, head_kv_;
};

// The weights of a pair in the sums of the outputs.
template <typename Real>
struct Weights {
  Real p, p_dot;  // with dropout
  Real u_bar, u_bar_dot;
};

template <typename Real>
__device__ Weights<Real> WeightsOf(const Pair<Real>& pair, const RowValues<Real>& row) {
  if (!pair.visible) return {};
  const Real p = Exp(pair.s - row.maximum) * row.inverse_sum;
  const Real centred = pair.s_dot - row.mu;
  const Real s_bar = p * (pair.p_bar - row.delta);
  const Real s_bar_dot = s_bar * centred + p * (pair.p_bar_dot - row.delta_dot);
  return {p * pair.z, p * centred * pair.z, pair.w * s_bar,
          pair.w * s_bar_dot + pair.w_dot * s_bar};
}

// The softmax and the statistics of row i, in three passes over its keys. Without the cotangents of
// lse.
template <typename Element, typename Real>
__device__ RowValues<Real> ValuesOfRow(const Problem<Element, Real>& problem, int i) {
  const KeyRange keys = problem.Keys(i);
  const auto begin = static_cast<int>(keys.begin);
  const auto end = static_cast<int>(keys.end);
  Real maximum = -static_cast<Real>(INFINITY);
  for (int j = begin + threadIdx.x; j < end; j += kThreads) {
    const Pair<Real> pair = problem.PairOf(i, j);
    if (pair.visible && !(pair.s <= maximum)) maximum = pair.s;
    if (maximum != maximum) break;
  }
  RowValues<Real> row = {};
  row.maximum = BlockMaximum(maximum);
  if (row.maximum == -static_cast<Real>(INFINITY)) return row;
  Real sum = 0, mu = 0, delta = 0;
  for (int j = begin + threadIdx.x; j < end; j += kThreads) {
    const Pair<Real> pair = problem.PairOf(i, j);
    if (!pair.visible) continue;
    const Real p = Exp(pair.s - row.maximum);
    sum += p;
    mu += p * pair.s_dot;
    delta += p * pair.p_bar;
  }
  row.inverse_sum = Real(1) / BlockSum(sum);
  row.mu = BlockSum(mu) * row.inverse_sum;
  row.delta = BlockSum(delta) * row.inverse_sum;
  Real delta_dot = 0;
  for (int j = begin + threadIdx.x; j < end; j += kThreads) {
    const Pair<Real> pair = problem.PairOf(i, j);
    if (!pair.visible) continue;
    const Real p = Exp(pair.s - row.maximum) * row.inverse_sum;
    delta_dot += p * (pair.p_bar_dot + (pair.s_dot - row.mu) * pair.p_bar);
  }
  row.delta_dot = BlockSum(delta_dot);
  return row;
}

template <typename Element>
__device__ bool HasNan(const OutputRows& rows, int batch, int head, int row, int columns) {
  if (rows.data == nullptr) return false;
  const Element* x = RowPointer<Element>(rows, batch, head, row);
  bool any = false;
  for (int column = threadIdx.x; column < columns; column += kThreads) {
    const auto value = static_cast<double>(x[column]);
    any |= value != value;
  }
  return any;
}

template <typename Element, typename Real>
__device__ void StoreRow(const OutputRows& rows, int batch, int head, int row, int columns,
                         const Real (&sums)[kColumnsOfThread], Real factor) {
  if (rows.data == nullptr) return;
  Element* x = RowPointer<Element>(rows, batch, head, row);
  for (int part = 0; part < kColumnsOfThread; ++part) {
    const int column = part * kThreads + threadIdx.x;
    if (column < columns) x[column] = static_cast<Element>(sums[part] * factor);
  }
}

// Adds weight * value(column) for the thread's columns.
template <typename Real, typename Value>
__device__ void AddColumns(Real (&sums)[kColumnsOfThread], int columns, Real weight,
                           const Value& value) {
  for (int part = 0; part < kColumnsOfThread; ++part) {
    const int column = part * kThreads + threadIdx.x;
    if (column < columns) sums[part] += weight * value(column);
  }
}

template <typename Real>
struct SharedPairs {
  bool visible[kThreads];
  Weights<Real> weights[kThreads];
};

// The outputs of query i.
template <typename Element, typename Real>
__device__ void RecomputeQuery(const AttentionParams& params, const Problem<Element, Real>& problem,
                               const RowValues<Real>& row, int batch, int head, int i) {
  __shared__ SharedPairs<Real> pairs;
  Real o[kColumnsOfThread] = {}, o_dot[kColumnsOfThread] = {};
  Real q_bar[kColumnsOfThread] = {}, q_bar_dot[kColumnsOfThread] = {};
  const KeyRange keys = problem.Keys(i);
  for (auto first = static_cast<int>(keys.begin); first < keys.end; first += kThreads) {
    const int own = first + threadIdx.x;
    __syncthreads();
    const Pair<Real> pair = problem.PairOf(i, own);
    pairs.visible[threadIdx.x] = pair.visible;
    pairs.weights[threadIdx.x] = WeightsOf(pair, row);
    __syncthreads();
    for (int at = 0; at < kThreads; ++at) {
      if (!pairs.visible[at]) continue;
      const Weights<Real>& w = pairs.weights[at];
      const auto of = [&](const InputRows& rows) {
        return [&, j = first + at](int column) { return problem.OfKey(rows, j, column); };
      };
      AddColumns(o, params.head_dim_v, w.p, of(params.v));
      AddColumns(o_dot, params.head_dim_v, w.p_dot, of(params.v));
      AddColumns(o_dot, params.head_dim_v, w.p, of(params.v_dot));
      AddColumns(q_bar, params.head_dim, w.u_bar, of(params.k));
      AddColumns(q_bar_dot, params.head_dim, w.u_bar_dot, of(params.k));
      AddColumns(q_bar_dot, params.head_dim, w.u_bar, of(params.k_dot));
    }
  }
  const auto scale = static_cast<Real>(params.scale);
  StoreRow<Element>(params.o_out, batch, head, i, params.head_dim_v, o, Real(1));
  StoreRow<Element>(params.o_dot_out, batch, head, i, params.head_dim_v, o_dot, Real(1));
  StoreRow<Element>(params.q_bar, batch, head, i, params.head_dim, q_bar, scale);
  StoreRow<Element>(params.q_bar_dot, batch, head, i, params.head_dim, q_bar_dot, scale);
}

// Of one head of queries: the statistics of all rows, and the outputs of those that hold a NaN.
template <typename Element, typename Real>
__global__ void __launch_bounds__(kThreads)
    RecomputeQueriesKernel(const __grid_constant__ RecomputeParams all, int splits) {
  const AttentionParams& params = all.attention;
  const int plane = blockIdx.x / splits;
  const int batch = plane / params.heads_q;
  const int head = plane % params.heads_q;
  const int plane_kv = batch * params.heads_kv + head / params.group;
  WaitForFlags();
  bool any = false;
  for (int index = 0; index < 2; ++index) {
    any |= FindsFlag(all.query_flags[index], plane, params.seq_q);
    any |= FindsFlag(all.key_flags[index], plane_kv, params.seq_kv);
  }
  if (!__syncthreads_or(any)) return;
  const Problem<Element, Real> problem(params, batch, head);
  for (int i = blockIdx.x % splits; i < params.seq_q; i += splits) {
    RowValues<Real> row = ValuesOfRow(problem, i);
    const std::int64_t at = std::int64_t{plane} * params.seq_q + i;
    if (params.lse_bar != nullptr) row.delta -= static_cast<const Real*>(params.lse_bar)[at];
    if (params.lse_bar_dot != nullptr) {
      row.delta_dot -= static_cast<const Real*>(params.lse_bar_dot)[at];
    }
    bool spoiled = HasNan<Element>(params.o_out, batch, head, i, params.head_dim_v) ||
                   HasNan<Element>(params.o_dot_out, batch, head, i, params.head_dim_v) ||
                   HasNan<Element>(params.q_bar, batch, head, i, params.head_dim) ||
                   HasNan<Element>(params.q_bar_dot, batch, head, i, params.head_dim);
    spoiled = __syncthreads_or(spoiled) != 0;
    // A NaN among the scores took part: the row is NaN, and stays so.
    if (spoiled && !isnan(row.maximum)) RecomputeQuery(params, problem, row, batch, head, i);
    if (threadIdx.x != 0) continue;
    if (params.lse_dot != nullptr) static_cast<Real*>(params.lse_dot)[at] = row.mu;
    if (params.statistics != nullptr) {
      const std::int64_t to = plane * StatisticsRows(params.seq_q) + i;
      const bool dead = row.maximum == -static_cast<Real>(INFINITY);
      static_cast<RowStatistics<Real>*>(params.statistics)[to] = {
          dead ? static_cast<Real>(INFINITY) : row.maximum, row.delta, row.mu, row.delta_dot};
      static_cast<Real*>(params.inverse_sums)[to] = row.inverse_sum;
    }
  }
}

// The queries in which key j may take part.
__device__ KeyRange QueriesOf(const AttentionParams& params, int batch, int j) {
  if (params.key_queries != nullptr) {
    const KeyQueries queries = params.key_queries[std::int64_t{batch} * params.seq_kv + j];
    return {queries.begin, queries.end};
  }
  const KeySpan queries = QueriesOfKeys(params, j, j);
  return {queries.begin, queries.end};
}

// The outputs of key j, which the heads of a group read.
template <typename Element, typename Real>
__device__ void RecomputeKey(const AttentionParams& params, int batch, int head_kv, int j) {
  __shared__ SharedPairs<Real> pairs;
  Real k_bar[kColumnsOfThread] = {}, v_bar[kColumnsOfThread] = {};
  Real k_bar_dot[kColumnsOfThread] = {}, v_bar_dot[kColumnsOfThread] = {};
  const KeyRange queries = QueriesOf(params, batch, j);
  for (int head = head_kv * params.group; head < (head_kv + 1) * params.group; ++head) {
    const Problem<Element, Real> problem(params, batch, head);
    const std::int64_t row =
        (std::int64_t{batch} * params.heads_q + head) * StatisticsRows(params.seq_q);
    const auto* statistics = static_cast<const RowStatistics<Real>*>(params.statistics) + row;
    const auto* inverse_sums = static_cast<const Real*>(params.inverse_sums) + row;
    for (auto first = static_cast<int>(queries.begin); first < queries.end; first += kThreads) {
      const int own = first + threadIdx.x;
      __syncthreads();
      Pair<Real> pair = {};
      Weights<Real> own_weights = {};
      if (own < queries.end) {
        pair = problem.PairOf(own, j);
        const RowStatistics<Real>& of_row = statistics[own];
        own_weights = WeightsOf(pair, RowValues<Real>{of_row.shift, inverse_sums[own], of_row.mu,
                                                      of_row.delta, of_row.delta_dot});
      }
      pairs.visible[threadIdx.x] = pair.visible;
      pairs.weights[threadIdx.x] = own_weights;
      __syncthreads();
      for (int at = 0; at < kThreads; ++at) {
        if (!pairs.visible[at]) continue;
        const Weights<Real>& w = pairs.weights[at];
        const auto of = [&](const InputRows& rows) {
          return [&, i = first + at](int column) { return problem.OfQuery(rows, i, column); };
        };
        AddColumns(v_bar, params.head_dim_v, w.p, of(params.o_bar));
        AddColumns(v_bar_dot, params.head_dim_v, w.p_dot, of(params.o_bar));
        AddColumns(v_bar_dot, params.head_dim_v, w.p, of(params.o_bar_dot));
        AddColumns(k_bar, params.head_dim, w.u_bar, of(params.q));
        AddColumns(k_bar_dot, params.head_dim, w.u_bar_dot, of(params.q));
        AddColumns(k_bar_dot, params.head_dim, w.u_bar, of(params.q_dot));
      }
    }
  }
  const auto scale = static_cast<Real>(params.scale);
  StoreRow<Element>(params.k_bar, batch, head_kv, j, params.head_dim, k_bar, scale);
  StoreRow<Element>(params.k_bar_dot, batch, head_kv, j, params.head_dim, k_bar_dot, scale);
  StoreRow<Element>(params.v_bar, batch, head_kv, j, params.head_dim_v, v_bar, Real(1));
  StoreRow<Element>(params.v_bar_dot, batch, head_kv, j, params.head_dim_v, v_bar_dot, Real(1));
}

// Of one head of keys: the outputs of the rows that hold a NaN, from the statistics of the queries.
template <typename Element, typename Real>
__global__ void __launch_bounds__(kThreads)
    RecomputeKeysKernel(const __grid_constant__ RecomputeParams all, int splits) {
  const AttentionParams& params = all.attention;
  const int plane = blockIdx.x / splits;
  const int batch = plane / params.heads_kv;
  const int head_kv = plane % params.heads_kv;
  WaitForFlags();
  bool any = false;
  for (const std::uint32_t* flags : all.key_flags) any |= FindsFlag(flags, plane, params.seq_kv);
  if (!__syncthreads_or(any)) return;
  for (int j = blockIdx.x % splits; j < params.seq_kv; j += splits) {
    const bool spoiled = HasNan<Element>(params.k_bar, batch, head_kv, j, params.head_dim) ||
                         HasNan<Element>(params.v_bar, batch, head_kv, j, params.head_dim_v) ||
                         HasNan<Element>(params.k_bar_dot, batch, head_kv, j, params.head_dim) ||
                         HasNan<Element>(params.v_bar_dot, batch, head_kv, j, params.head_dim_v);
    if (__syncthreads_or(spoiled) == 0) continue;
    RecomputeKey<Element, Real>(params, batch, head_kv, j);
  }
}

template <typename Element, typename Real>
cudaError_t Launch(const RecomputeParams& params, cudaStream_t stream) {
  constexpr int kBlocks = 264;  // two for each multiprocessor of a large GPU
  const AttentionParams& attention = params.attention;
  const auto launch = [&](auto* kernel, std::int64_t planes, int rows) {
    const auto splits =
        static_cast<int>(std::clamp<std::int64_t>(kBlocks / planes, 1, std::max(rows, 1)));
    // Launched while the kernel before it ends, see WaitForFlags.
    cudaLaunchAttribute overlap = {};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(planes * splits));
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    config.attrs = &overlap;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, params, splits);
  };
  const cudaError_t error =
      launch(RecomputeQueriesKernel<Element, Real>,
             std::int64_t{attention.batch} * attention.heads_q, attention.seq_q);
  const bool has_keys = params.key_flags[0] != nullptr || params.key_flags[1] != nullptr;
  if (error != cudaSuccess || !has_keys) return error;
  return launch(RecomputeKeysKernel<Element, Real>,
                std::int64_t{attention.batch} * attention.heads_kv, attention.seq_kv);
}

}  // namespace

cudaError_t LaunchRecompute(const RecomputeParams& params, DType dtype, cudaStream_t stream) {
  switch (dtype) {
    case DType::kFloat16:
      return Launch<__half, float>(params, stream);
    case DType::kBFloat16:
      return Launch<__nv_bfloat16, float>(params, stream);
    case DType::kFloat32:
      return Launch<float, float>(params, stream);
    case DType::kFloat64:
      return Launch<double, double>(params, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace theria::cuda
