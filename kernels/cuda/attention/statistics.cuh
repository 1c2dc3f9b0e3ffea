#ifndef THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/attention/saved_lse.cuh"

namespace theria::cuda {

// The shift and the inverse sum of a row, see RowStatistics.
template <typename Accumulator>
struct RowNormalizer {
  Accumulator shift, inverse_sum;
};

template <typename Mma>
__device__ __forceinline__ RowNormalizer<typename Mma::Accumulator> NormalizerOfRow(
    const AttentionParams& params, std::int64_t row) {
  using Accumulator = typename Mma::Accumulator;
  constexpr Accumulator kLog2E = static_cast<Accumulator>(1.4426950408889634074);
  constexpr Accumulator kInfinity = static_cast<Accumulator>(INFINITY);
  if (params.saved_lse != nullptr) {
    const Accumulator lse = static_cast<const Accumulator*>(params.saved_lse)[row];
    if (IsExactEnough<Mma>(lse)) {
      return {params.general ? lse : lse * kLog2E, Accumulator(1)};
    }
  }
  const auto [base, sum] = static_cast<const SoftmaxSum<Accumulator>*>(params.row_sums)[row];
  if (sum == Accumulator(0)) return {kInfinity, Accumulator(1)};
  const Accumulator log_sum = Mma::Log(sum < Accumulator(0) ? -sum : sum);
  const Accumulator lse = (params.general ? base : base / kLog2E) + log_sum;
  if (IsExactEnough<Mma>(lse)) {
    return {params.general ? lse : base + log_sum * kLog2E, Accumulator(1)};
  }
  return {base, Accumulator(1) / sum};
}

// The row statistics of params.h for every row, the padding included; blocks never straddle heads.
// Zeroes params.q_bar_sum where there is one.
//   delta = rowsum(o_bar o) - lse_bar,  delta_dot = rowsum(o_bar_dot o + o_bar o_dot) - lse_bar_dot
template <typename Mma>
__global__ void __launch_bounds__(kStatisticsThreads)
    StatisticsKernel(const __grid_constant__ AttentionParams params) {
  using Element = typename Mma::Element;
  using Accumulator = typename Mma::Accumulator;
  constexpr int kVector = 16 / sizeof(Element);
  struct alignas(16) Vector {
    Element x[kVector];
  };

  constexpr int kLanes = kStatisticsThreadsPerRow;
  constexpr int kRows = kStatisticsRowsPerBlock;
  const auto blocks_per_head = static_cast<unsigned>(StatisticsRows(params.seq_q) / kRows);
  const unsigned plane = blockIdx.x / blocks_per_head;
  const int row = static_cast<int>(blockIdx.x % blocks_per_head) * kRows + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;

  if (params.q_bar_sum != nullptr) {
    // A block's rows are adjacent there, whatever the order of the elements in a tile.
    const std::int64_t first =
        std::int64_t{plane} * StatisticsRows(params.seq_q) + (row - threadIdx.x / kLanes);
    auto* sums = reinterpret_cast<float4*>(params.q_bar_sum + first * params.q_bar_sum_columns);
    const int count = kRows * params.q_bar_sum_columns / 4;
    for (int at = threadIdx.x; at < count; at += kStatisticsThreads) sums[at] = float4{};
  }

  RowStatistics<Accumulator> statistics = {static_cast<Accumulator>(INFINITY), 0, 0, 0};
  Accumulator inverse_sum = Accumulator(1);
  if (row < params.seq_q) {
    const int batch = static_cast<int>(plane / params.heads_q);
    const int head = static_cast<int>(plane % params.heads_q);
    const bool has_o_dot = params.o_dot.data != nullptr;
    const bool has_o_bar_dot = params.o_bar_dot.data != nullptr;
    for (int column = lane * kVector; column < params.head_dim_v; column += kLanes * kVector) {
      const auto load = [&](const InputRows& rows) {
        return *reinterpret_cast<const Vector*>(RowPointer<Element>(rows, batch, head, row) +
                                                column);
      };
      const Vector o = load(params.o);
      const Vector o_bar = load(params.o_bar);
      const Vector o_dot = has_o_dot ? load(params.o_dot) : Vector{};
      const Vector o_bar_dot = has_o_bar_dot ? load(params.o_bar_dot) : Vector{};
#pragma unroll
      for (int e = 0; e < kVector; ++e) {
        const auto value = [&](const Vector& vector) {
          return static_cast<Accumulator>(vector.x[e]);
        };
        statistics.delta += value(o_bar) * value(o);
        if (has_o_dot) statistics.delta_dot += value(o_bar) * value(o_dot);
        if (has_o_bar_dot) statistics.delta_dot += value(o_bar_dot) * value(o);
      }
    }
    const std::int64_t at = std::int64_t{plane} * params.seq_q + row;
    const RowNormalizer<Accumulator> normalizer = NormalizerOfRow<Mma>(params, at);
    statistics.shift = normalizer.shift;
    inverse_sum = normalizer.inverse_sum;
    if (params.lse_dot != nullptr) {
      statistics.mu = static_cast<const Accumulator*>(params.lse_dot)[at];
    }
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    statistics.delta += __shfl_xor_sync(0xffffffffu, statistics.delta, distance);
    statistics.delta_dot += __shfl_xor_sync(0xffffffffu, statistics.delta_dot, distance);
  }
  const std::int64_t to = plane * StatisticsRows(params.seq_q) + row;
  // A row without keys has no derivatives, whatever its lse of -inf made of lse_bar.
  if (lane == 0 && row < params.seq_q && statistics.shift != static_cast<Accumulator>(INFINITY)) {
    const std::int64_t at = std::int64_t{plane} * params.seq_q + row;
    if (params.lse_bar != nullptr) {
      statistics.delta -= static_cast<const Accumulator*>(params.lse_bar)[at];
    }
    if (params.lse_bar_dot != nullptr) {
      statistics.delta_dot -= static_cast<const Accumulator*>(params.lse_bar_dot)[at];
    }
  }
  // With a cotangent of lse a row of one key has derivatives: lse follows its score.
  if (params.lse_bar != nullptr || params.lse_bar_dot != nullptr) {
    inverse_sum = inverse_sum < Accumulator(0) ? -inverse_sum : inverse_sum;
  }
  if (lane == 0) {
    static_cast<RowStatistics<Accumulator>*>(params.statistics)[to] = statistics;
    static_cast<Accumulator*>(params.inverse_sums)[to] = inverse_sum;
  }
  const int unfolded = __syncthreads_or(inverse_sum != Accumulator(1));
  if (threadIdx.x == 0) params.unfolded[to / kRows] = unfolded != 0;
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_CUH_
