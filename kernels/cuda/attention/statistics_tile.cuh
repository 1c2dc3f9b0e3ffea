#ifndef THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_TILE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_TILE_CUH_

#include <cstdint>
#include <type_traits>

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

template <typename Accumulator>
__device__ __forceinline__ const Accumulator* InverseSumsOfHead(const AttentionParams& params,
                                                                int batch, int head) {
  return static_cast<const Accumulator*>(params.inverse_sums) +
         (static_cast<std::int64_t>(batch) * params.heads_q + head) * StatisticsRows(params.seq_q);
}

// The inverse sums of a thread's rows; those past seq_q are unspecified.
template <typename Accumulator, int kRowTiles>
__device__ __forceinline__ void ReadInverseSums(const AttentionParams& params, int batch, int head,
                                                int row, Accumulator (&sums)[kRowTiles][2]) {
  const Accumulator* of_head = InverseSumsOfHead<Accumulator>(params, batch, head);
  const int last = static_cast<int>(StatisticsRows(params.seq_q)) - 1;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sums[tile][half] =
          of_head[min(row + tile * 16 + half * 8 + static_cast<int>(threadIdx.x) % 32 / 4, last)];
    }
  }
}

// Whether any inverse sum of the heads that read key head `head_kv` is not 1; the same in all lanes
// of the warp, all of which call it.
__device__ __forceinline__ bool HasUnfoldedRows(const AttentionParams& params, int batch,
                                                int head_kv) {
  const int words =
      static_cast<int>(StatisticsRows(params.seq_q)) / kStatisticsRowMultiple * params.group;
  static_assert(kStatisticsRowMultiple == 4 * kStatisticsRowsPerBlock, "a word of four flags");
  const auto* flags =
      reinterpret_cast<const std::uint32_t*>(params.unfolded) +
      (static_cast<std::int64_t>(batch) * params.heads_kv + head_kv) * std::int64_t{words};
  bool any = false;
  for (int word = static_cast<int>(threadIdx.x) % 32; word < words; word += 32) {
    any |= flags[word] != 0;
  }
  return __any_sync(0xffffffffu, any);
}

// What an inverse sum multiplies probabilities and their derivatives by.
template <typename Accumulator>
__device__ __forceinline__ Accumulator FactorOfProbabilities(Accumulator inverse_sum) {
  return inverse_sum < Accumulator(0) ? -inverse_sum : inverse_sum;
}
template <typename Accumulator>
__device__ __forceinline__ Accumulator FactorOfDerivatives(Accumulator inverse_sum) {
  return inverse_sum < Accumulator(0) ? Accumulator(0) : inverse_sum;
}

// Multiplies every element of tiles whose columns are queries by factor(inverse sum of its column).
// `sums` is the inverse sum of the first column.
template <typename Accumulator, typename Factor, typename Tile, typename... Tiles>
__device__ __forceinline__ void ScaleColumns(const Accumulator* sums, const Factor& factor,
                                             Tile& tile, Tiles&... tiles) {
  constexpr int kRowTiles = std::extent_v<Tile, 0>;
  constexpr int kBlocks = std::extent_v<Tile, 1>;
  sums += threadIdx.x % 4 * 2;
#pragma unroll
  for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const Accumulator of_column = factor(sums[block * 8 + side]);
#pragma unroll
      for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
#pragma unroll
        for (int e = side; e < 4; e += 2) {
          tile[row_tile][block][e] *= of_column;
          ((tiles[row_tile][block][e] *= of_column), ...);
        }
      }
    }
  }
}

// Multiplies a tile of probabilities, whose columns are queries, by their inverse sums.
template <typename Accumulator, typename Tile>
__device__ __forceinline__ void ScaleProbabilities(const Accumulator* sums, Tile& p) {
  ScaleColumns(
      sums, [](Accumulator sum) { return FactorOfProbabilities(sum); }, p);
}

// The same for derivatives made of probabilities that lack their inverse sums.
template <typename Accumulator, typename... Tiles>
__device__ __forceinline__ void ScaleDerivatives(const Accumulator* sums, Tiles&... derivatives) {
  ScaleColumns(
      sums, [](Accumulator sum) { return FactorOfDerivatives(sum); }, derivatives...);
}

// Derivatives made of complete probabilities vanish in rows that have one key.
template <typename Accumulator, typename... Tiles>
__device__ __forceinline__ void ClearOneHot(const Accumulator* sums, Tiles&... derivatives) {
  ScaleColumns(
      sums, [](Accumulator sum) { return sum < Accumulator(0) ? Accumulator(0) : Accumulator(1); },
      derivatives...);
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
      sm80::LoadSharedPair(at, of_row.shift, of_row.delta);
      if constexpr (kTangents) {
        sm80::LoadSharedPair(at + 2 * sizeof(zero), of_row.mu, of_row.delta_dot);
      }
      visit(block, side, of_row);
    }
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_STATISTICS_TILE_CUH_
