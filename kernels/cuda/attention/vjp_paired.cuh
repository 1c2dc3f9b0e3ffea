#ifndef THERIA_KERNELS_CUDA_ATTENTION_VJP_PAIRED_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_VJP_PAIRED_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/statistics_tile.cuh"
#include "kernels/cuda/attention/tile_config.h"

// VjpKeysKernel for head dimensions at which shared memory's bandwidth is the limit: a fragment
// that is loaded serves more rows. Two warps share their keys. Of a tile of queries each computes
// the scores of one half; they exchange P and S_bar, as the fragments that the products take, and
// each computes one half of the columns of k_bar and v_bar.

namespace theria::cuda {

// Waits for the 64 threads of a pair. Barrier 0 is the block's own.
__device__ __forceinline__ void WaitForPair(int pair) {
  asm volatile("bar.sync %0, 64;" ::"r"(pair + 1) : "memory");
}

template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    VjpKeysPairedKernel(const __grid_constant__ AttentionParams params) {
  using Mma = typename Tiling::Mma;
  using Accumulator = typename Tiling::Accumulator;
  constexpr int kBytes = sizeof(typename Tiling::Element);
  constexpr int kRowTiles = Tiling::kRowTiles;
  constexpr int kHalf = Tiling::kColumns / 2;  // queries whose scores a warp computes
  constexpr int kSteps = kHalf / Mma::kDepth;  // fragments across them
  constexpr int kOutputs = Tiling::kDim / 2;   // columns of the results that a warp computes
  constexpr int kFragmentBytes = 32 * sizeof(typename Mma::A);
  constexpr int kWarpBytes = 2 * kSteps * kRowTiles * kFragmentBytes;
  static_assert(sizeof(typename Mma::A) == 16);
  static_assert(kWarpBytes * Tiling::kConfig.warps == Tiling::kExchangeBytes);

  extern __shared__ __align__(16) unsigned char shared_memory[];
  const std::uint32_t k_tile = sm80::SharedAddress(shared_memory);
  const std::uint32_t stages = k_tile + 2 * Tiling::kRowTileBytes;
  const int warp = threadIdx.x / 32;
  const int lane = threadIdx.x % 32;
  const int pair = warp / 2;
  const int side = warp % 2;
  const std::uint32_t exchange =
      stages + Tiling::kStages * Tiling::kStageBytes + lane * sizeof(typename Mma::A);

  const int tiles = (params.seq_kv + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<false>(params.heads_kv, 1, tiles);
  const int row = work.tile * Tiling::kRows;
  const int warp_row = pair * Tiling::kWarpRows;
  const KeySpan queries = QueriesOfKeys(params, row, min(row + Tiling::kRows, params.seq_kv) - 1);
  const int first = queries.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(queries.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_kv;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  const Accumulator log2_scale =
      Log2Scale<Tiling::kGeneral>(static_cast<Accumulator>(params.scale));

  LoadTile<Tiling, Tiling::kRows>(k_tile, params.k, work.batch, work.head, row, params.seq_kv,
                                  params.head_dim);
  LoadTile<Tiling, Tiling::kRows>(k_tile + Tiling::kRowTileBytes, params.v, work.batch, work.head,
                                  row, params.seq_kv, params.head_dim_v);

  const bool unfolded = HasUnfoldedRows(params, work.batch, work.head);
  Accumulator k_bar[kRowTiles][kOutputs / 8][4];
  Accumulator v_bar[kRowTiles][kOutputs / 8][4];
  Clear(k_bar);
  Clear(v_bar);

  StreamTiles<Tiling>(
      stages, steps * params.group, IsIdle<Tiling>(row + warp_row, params.seq_kv),
      [&](int step, std::uint32_t stage) {
        const int head = work.head * params.group + step / steps;
        const int column = first + step % steps * Tiling::kColumns;
        LoadTile<Tiling, Tiling::kColumns>(stage, params.q, work.batch, head, column, params.seq_q,
                                           params.head_dim);
        LoadTile<Tiling, Tiling::kColumns>(stage + Tiling::kColumnTileBytes, params.o_bar,
                                           work.batch, head, column, params.seq_q,
                                           params.head_dim_v);
        LoadStatistics<Tiling>(stage + 2 * Tiling::kColumnTileBytes, params, work.batch, head,
                               column);
      },
      [&](int step, std::uint32_t stage) {
        const int head = work.head * params.group + step / steps;
        const int column = first + step % steps * Tiling::kColumns + side * kHalf;
        const TilePosition position = {work.batch, head, row + warp_row, column};
        const bool whole =
            whole_rows && column >= queries.full_begin && column + kHalf <= queries.full_end;
        const std::uint32_t k = k_tile + warp_row * Tiling::kStride * kBytes;
        const std::uint32_t q = stage + side * kHalf * Tiling::kStride * kBytes;
        const std::uint32_t statistics =
            stage + 2 * Tiling::kColumnTileBytes +
            side * kHalf * static_cast<int>(sizeof(RowStatistics<Accumulator>));

        Accumulator scores[kRowTiles][kHalf / 8][4];
        Accumulator gradients[kRowTiles][kHalf / 8][4];
        Clear(scores);
        Clear(gradients);
        AddRowsByRows<typename Mma::Transposed, Tiling::kDim, Tiling::kStride>(scores, k, q);
        AddRowsByRows<Mma, Tiling::kDim, Tiling::kStride>(gradients, k + Tiling::kRowTileBytes,
                                                          q + Tiling::kColumnTileBytes);
        ModifyScores<Tiling::kGeneral, true>(params, position, whole, scores);
        if (Tiling::kGeneral || !whole) {
          ClearBeside(-static_cast<Accumulator>(INFINITY), scores, gradients);
        }
        KeptElements<kRowTiles, kHalf / 8> kept;
        if (dropout) {
          kept.template Draw<true>(params, position);
          kept.Apply(gradients);
        }
        ForEachColumn<false, kHalf / 8>(
            statistics, Accumulator(0),
            [&](int block, int offset, const RowStatistics<Accumulator>& of_row) {
#pragma unroll
              for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
                for (int e = offset; e < 4; e += 2) {
                  const Accumulator probability = Mma::Exp2(
                      Exponent<Tiling::kGeneral>(scores[tile][block][e], log2_scale, of_row.shift));
                  const Accumulator gradient = Tiling::kGeneral
                                                   ? gradients[tile][block][e] * keep_scale
                                                   : gradients[tile][block][e];
                  scores[tile][block][e] = probability;
                  gradients[tile][block][e] = probability * (gradient - of_row.delta);
                }
              }
            });
        if (unfolded) {
          const Accumulator* sums =
              InverseSumsOfHead<Accumulator>(params, work.batch, head) + column;
          ScaleProbabilities(sums, scores);
          ScaleDerivatives(sums, gradients);
        }
        if (dropout) kept.Apply(scores);

        // P and S_bar: the own half first, the other warp's after the exchange.
        typename Mma::A p[kSteps][kRowTiles];
        typename Mma::A s_bar[kSteps][kRowTiles];
        const auto slot = [&](int of_warp, int matrix, int inner, int tile) {
          return exchange + of_warp * kWarpBytes +
                 ((matrix * kSteps + inner) * kRowTiles + tile) * kFragmentBytes;
        };
#pragma unroll
        for (int inner = 0; inner < kSteps; ++inner) {
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile) {
            p[inner][tile] = Mma::MakeA(&scores[tile][inner * Mma::kDepth / 8]);
            s_bar[inner][tile] = Mma::MakeA(&gradients[tile][inner * Mma::kDepth / 8]);
            sm80::StoreShared4(slot(warp, 0, inner, tile), p[inner][tile].x);
            sm80::StoreShared4(slot(warp, 1, inner, tile), s_bar[inner][tile].x);
          }
        }
        const auto add = [&](int half) {
          const std::uint32_t rows =
              stage + (half * kHalf * Tiling::kStride + side * kOutputs) * kBytes;
          AddFragmentsByTile<Mma, Tiling::kStride>(v_bar, p, rows + Tiling::kColumnTileBytes);
          AddFragmentsByTile<Mma, Tiling::kStride>(k_bar, s_bar, rows);
        };
        add(side);
        WaitForPair(pair);
#pragma unroll
        for (int inner = 0; inner < kSteps; ++inner) {
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile) {
            sm80::LoadShared4(slot(warp ^ 1, 0, inner, tile), p[inner][tile].x);
            sm80::LoadShared4(slot(warp ^ 1, 1, inner, tile), s_bar[inner][tile].x);
          }
        }
        add(1 - side);
      });

  const Accumulator scale = static_cast<Accumulator>(params.scale);
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_kv + work.head, row + warp_row,
           params.seq_kv, side, 2, k_bar, v_bar);
  const auto store = [&](const OutputRows& rows, int columns, const auto& x, Accumulator factor) {
    if (rows.data == nullptr) return;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_kv, side * kOutputs,
                   columns, x, [&](int, int) { return factor; });
  };
  store(params.k_bar, params.head_dim, k_bar, scale);
  store(params.v_bar, params.head_dim_v, v_bar, keep_scale);
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_VJP_PAIRED_CUH_
