#ifndef THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_TILE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_TILE_CUH_

#include <cstdint>

#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/primitives/sm80/cp_async.cuh"
#include "kernels/cuda/primitives/sm80/ldmatrix.cuh"

// Row statistics where kernels use them: in registers where the tile's rows are queries, in shared
// memory where its columns are.

namespace theria::cuda {

template <typename Accumulator>
__device__ __forceinline__ const RowStatistics<Accumulator>* StatisticsOfHead(
    const AttentionParams& params, int batch, int head) {
  return static_cast<const RowStatistics<Accumulator>*>(params.statistics) +
         (static_cast<std::int64_t>(batch) * params.heads_q + head) * StatisticsRows(params.seq_q);
}

// The statistics of a thread's rows, those past the padding anything. `row` is the first row of its
// warp's tile.
template <typename Accumulator, int kRowTiles>
__device__ __forceinline__ void ReadRowStatistics(
    const AttentionParams& params, int batch, int head, int row,
    RowStatistics<Accumulator> (&statistics)[kRowTiles][2]) {
  const auto* of_head = StatisticsOfHead<Accumulator>(params, batch, head);
  const int last = static_cast<int>(StatisticsRows(params.seq_q)) - 1;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      statistics[tile][half] =
          of_head[min(row + tile * 16 + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4, last)];
    }
  }
}

// Starts the copy of the statistics of kStageColumns queries from `column` on.
template <typename Tiling>
__device__ __forceinline__ void LoadStatistics(std::uint32_t destination,
                                               const AttentionParams& params, int batch, int head,
                                               int column) {
  using Accumulator = typename Tiling::Accumulator;
  const auto* source = reinterpret_cast<const unsigned char*>(
      StatisticsOfHead<Accumulator>(params, batch, head) + column);
#pragma unroll
  for (int at = threadIdx.x * 16; at < Tiling::kStatisticsBytes; at += Tiling::kThreads * 16) {
    sm80::CopyAsync16(destination + at, source + at, true);
  }
}

// Calls visit(block, side, of_row) for a thread's columns of a tile, column 8 * block + 2 * (lane %
// 4)
// + side being the query that of_row describes. kTangents: whether mu and delta_dot are read.
template <bool kTangents, int kBlocks, typename Accumulator, typename Visit>
__device__ __forceinline__ void ForEachColumn(std::uint32_t statistics, Accumulator zero,
                                              const Visit& visit) {
  statistics += threadIdx.x % 4 * 2 * sizeof(RowStatistics<Accumulator>);
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const std::uint32_t at =
          statistics + (block * 8 + side) * static_cast<int>(sizeof(RowStatistics<Accumulator>));
      RowStatistics<Accumulator> of_row = {};
      sm80::LoadSharedPair(at, of_row.log2_normalizer, of_row.delta);
      if constexpr (kTangents) {
        sm80::LoadSharedPair(at + 2 * sizeof(zero), of_row.mu, of_row.delta_dot);
      }
      visit(block, side, of_row);
    }
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_TILE_CUH_
