#ifndef THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/params.h"

namespace theria::cuda {

// The row statistics of params.h for every row, the padding included; blocks never straddle heads.
//   delta = rowsum(o_bar o),  delta_dot = rowsum(o_bar_dot o + o_bar o_dot)
template <typename Mma>
__global__ void __launch_bounds__(kStatisticsThreads)
    StatisticsKernel(const __grid_constant__ AttentionParams params) {
  using Element = typename Mma::Element;
  using Accumulator = typename Mma::Accumulator;
  constexpr Accumulator kLog2E = static_cast<Accumulator>(1.4426950408889634074);
  constexpr int kVector = 16 / sizeof(Element);
  struct alignas(16) Vector {
    Element x[kVector];
  };

  constexpr int kLanes = kStatisticsThreadsPerRow;
  constexpr int kRows = kStatisticsThreads / kLanes;
  const auto blocks_per_head = static_cast<unsigned>(StatisticsRows(params.seq_q) / kRows);
  const unsigned plane = blockIdx.x / blocks_per_head;
  const int row = static_cast<int>(blockIdx.x % blocks_per_head) * kRows + threadIdx.x / kLanes;
  const int lane = threadIdx.x % kLanes;

  RowStatistics<Accumulator> statistics = {static_cast<Accumulator>(INFINITY), 0, 0, 0};
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
    const Accumulator lse = static_cast<const Accumulator*>(params.lse)[at];
    if (lse != -static_cast<Accumulator>(INFINITY)) statistics.log2_normalizer = lse * kLog2E;
    if (params.lse_dot != nullptr) {
      statistics.mu = static_cast<const Accumulator*>(params.lse_dot)[at];
    }
  }
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) {
    statistics.delta += __shfl_xor_sync(0xffffffffu, statistics.delta, distance);
    statistics.delta_dot += __shfl_xor_sync(0xffffffffu, statistics.delta_dot, distance);
  }
  if (lane == 0) {
    static_cast<RowStatistics<Accumulator>*>(
        params.statistics)[plane * StatisticsRows(params.seq_q) + row] = statistics;
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_CUH_
