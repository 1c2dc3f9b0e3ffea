#ifndef THERIA_KERNELS_CUDA_ATTENTION_VJP_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_VJP_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/extended_scores.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/statistics_tile.cuh"
#include "kernels/cuda/attention/tile_config.h"

// The VJP as two kernels, one per stationary side, so that every sum stays in one block's
// registers: no atomic additions, no float32 copies of the gradients, and the same bits on every
// run.
//   P_bar = (o_bar v^T) Z,  S_bar = P (P_bar - delta)

namespace theria::cuda {

// q_bar = scale * S_bar k of one tile of queries; keys and values stream past.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    VjpQueriesKernel(const __grid_constant__ AttentionParams params) {
  using Mma = typename Tiling::Mma;
  using Accumulator = typename Tiling::Accumulator;
  constexpr int kBytes = sizeof(typename Tiling::Element);

  extern __shared__ __align__(16) unsigned char shared_memory[];
  const std::uint32_t q_tile = sm80::SharedAddress(shared_memory);
  const std::uint32_t stages = q_tile + 2 * Tiling::kRowTileBytes;

  const int tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<true>(params.heads_q, Tiling::kSlices, tiles);
  const int head_kv = work.head / params.group;
  const int row = work.tile * Tiling::kRows;
  const int warp_row = threadIdx.x / 32 * Tiling::kWarpRows;
  const KeySpan keys =
      KeysOfTile<Tiling>(params, work.batch, row, min(row + Tiling::kRows, params.seq_q) - 1);
  const int first = keys.begin / Tiling::kStageColumns * Tiling::kStageColumns;
  const int steps = max(keys.end - first + Tiling::kStageColumns - 1, 0) / Tiling::kStageColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_q;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  const Accumulator log2_scale =
      Log2Scale<Tiling::kGeneral>(static_cast<Accumulator>(params.scale));

  const auto load_rows = [&](int from) {
    LoadTile<Tiling, Tiling::kRows>(q_tile, params.q, work.batch, work.head, row, params.seq_q,
                                    params.head_dim, from);
    LoadTile<Tiling, Tiling::kRows>(q_tile + Tiling::kRowTileBytes, params.o_bar, work.batch,
                                    work.head, row, params.seq_q, params.head_dim_v, from);
  };
  const auto load_columns = [&](std::uint32_t stage, int column, int from) {
    LoadTile<Tiling, Tiling::kStageColumns>(stage, params.k, work.batch, head_kv, column,
                                            params.seq_kv, params.head_dim, from);
    LoadTile<Tiling, Tiling::kStageColumns>(stage + Tiling::kColumnTileBytes, params.v, work.batch,
                                            head_kv, column, params.seq_kv, params.head_dim_v,
                                            from);
  };
  if constexpr (!Tiling::kChunked) load_rows(0);
  RowStatistics<Accumulator> statistics[Tiling::kRowTiles][2];
  ReadRowStatistics(params, work.batch, work.head, row + warp_row, statistics);

  Accumulator q_bar[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Clear(q_bar);
  constexpr int kFragments = Tiling::kResident ? Tiling::kDim / Mma::kDepth : 1;
  typename Mma::A q_rows[kFragments][Tiling::kRowTiles];
  typename Mma::A o_bar_rows[kFragments][Tiling::kRowTiles];

  StreamTiles<Tiling>(
      stages, steps, IsIdle<Tiling>(row + warp_row, params.seq_q),
      [&](int step, std::uint32_t stage) {
        if constexpr (!Tiling::kChunked) {
          load_columns(stage, first + step * Tiling::kStageColumns, 0);
        }
      },
      [&](int step, std::uint32_t stage) {
        const std::uint32_t q = q_tile + warp_row * Tiling::kStride * kBytes;
        const std::uint32_t o_bar = q + Tiling::kRowTileBytes;
        if constexpr (Tiling::kResident) {
          if (step == 0) {
            LoadRowFragments<Mma, Tiling::kStride>(q_rows, q);
            LoadRowFragments<Mma, Tiling::kStride>(o_bar_rows, o_bar);
          }
        }
#pragma unroll 1
        for (int part = 0; part < Tiling::kParts; ++part) {
          const int column = first + step * Tiling::kStageColumns + part * Tiling::kColumns;
          const TilePosition position = {work.batch, work.head, row + warp_row, column};
          const bool whole =
              whole_rows && column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
          const std::uint32_t k = stage + part * Tiling::kColumns * Tiling::kStride * kBytes;
          const std::uint32_t v = k + Tiling::kColumnTileBytes;

          Accumulator s[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
          Accumulator p_bar[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
          Clear(s);
          Clear(p_bar);
          if constexpr (Tiling::kResident) {
            AddFragmentsByRows<Mma, Tiling::kStride>(s, q_rows, k);
            AddFragmentsByRows<Mma, Tiling::kStride>(p_bar, o_bar_rows, v);
          } else {
            const auto multiply = [&] {
              AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(s, q, k);
              AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(p_bar, o_bar, v);
            };
            if constexpr (Tiling::kChunked) {
              ForEachChunk<Tiling>(
                  [&](int from) {
                    load_rows(from);
                    load_columns(stage, column, from);
                  },
                  multiply);
              __syncthreads();
              LoadTile<Tiling, Tiling::kColumns, Tiling::kSlice, Tiling::kOutputStride>(
                  q_tile, params.k, work.batch, head_kv, column, params.seq_kv, params.head_dim,
                  work.slice * Tiling::kSlice);
              sm80::CommitCopies();
              sm80::WaitForCopies<0>();
              __syncthreads();
            } else {
              multiply();
            }
          }
          CapTile<Tiling, Tiling::kRowTiles, Tiling::kColumnBlocks> cap;
          MakeScores<Tiling, false>(params, position, whole, s, cap);
          if (Tiling::kGeneral || !whole) {
            ClearBeside(-static_cast<Accumulator>(INFINITY), s, p_bar);
          }
          if (dropout) {
            KeptElements<Tiling::kRowTiles, Tiling::kColumnBlocks> kept;
            kept.template Draw<false>(params, position);
            kept.Apply(p_bar);
          }
#pragma unroll
          for (int tile = 0; tile < Tiling::kRowTiles; ++tile) {
#pragma unroll
            for (int block = 0; block < Tiling::kColumnBlocks; ++block) {
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                const auto& of_row = statistics[tile][e / 2];
                const Accumulator p = Mma::Exp2(
                    Exponent<Tiling::kGeneral>(s[tile][block][e], log2_scale, of_row.shift));
                const Accumulator gradient =
                    Tiling::kGeneral ? p_bar[tile][block][e] * keep_scale : p_bar[tile][block][e];
                s[tile][block][e] = p * (gradient - of_row.delta);  // S_bar
              }
            }
          }
          PullThroughCap<Tiling>(cap, s);
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(
              q_bar, s, Tiling::kChunked ? q_tile : k + work.slice * Tiling::kSlice * kBytes);
        }
      });

  const Accumulator scale = static_cast<Accumulator>(params.scale);
  Accumulator inverse_sums[Tiling::kRowTiles][2];
  ReadInverseSums(params, work.batch, work.head, row + warp_row, inverse_sums);
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row + warp_row,
           params.seq_q, work.slice, Tiling::kSlices, q_bar);
  StoreRows<Mma>(params.q_bar, work.batch, work.head, row + warp_row, params.seq_q,
                 work.slice * Tiling::kSlice, params.head_dim, q_bar, [&](int tile, int half) {
                   return scale * FactorOfDerivatives(inverse_sums[tile][half]);
                 });
}

// k_bar = scale * S_bar^T q and v_bar = (P Z)^T o_bar of one tile of keys; the queries of all the
// heads that read these keys stream past. Scores are computed transposed, rows are keys.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    VjpKeysKernel(const __grid_constant__ AttentionParams params) {
  using Mma = typename Tiling::Mma;
  using Accumulator = typename Tiling::Accumulator;
  constexpr int kBytes = sizeof(typename Tiling::Element);

  extern __shared__ __align__(16) unsigned char shared_memory[];
  const std::uint32_t k_tile = sm80::SharedAddress(shared_memory);
  const std::uint32_t stages = k_tile + 2 * Tiling::kRowTileBytes;

  const int tiles = (params.seq_kv + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<false>(params.heads_kv, Tiling::kSlices, tiles);
  const int row = work.tile * Tiling::kRows;
  const int warp_row = threadIdx.x / 32 * Tiling::kWarpRows;
  const KeySpan queries =
      QueriesOfTile<Tiling>(params, work.batch, row, min(row + Tiling::kRows, params.seq_kv) - 1);
  const int first = queries.begin / Tiling::kStageColumns * Tiling::kStageColumns;
  const int steps = max(queries.end - first + Tiling::kStageColumns - 1, 0) / Tiling::kStageColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_kv;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  const Accumulator log2_scale =
      Log2Scale<Tiling::kGeneral>(static_cast<Accumulator>(params.scale));

  const auto load_rows = [&](int from) {
    LoadTile<Tiling, Tiling::kRows>(k_tile, params.k, work.batch, work.head, row, params.seq_kv,
                                    params.head_dim, from);
    LoadTile<Tiling, Tiling::kRows>(k_tile + Tiling::kRowTileBytes, params.v, work.batch, work.head,
                                    row, params.seq_kv, params.head_dim_v, from);
  };
  const auto load_columns = [&](std::uint32_t stage, int head, int column, int from) {
    LoadTile<Tiling, Tiling::kStageColumns>(stage, params.q, work.batch, head, column, params.seq_q,
                                            params.head_dim, from);
    LoadTile<Tiling, Tiling::kStageColumns>(stage + Tiling::kColumnTileBytes, params.o_bar,
                                            work.batch, head, column, params.seq_q,
                                            params.head_dim_v, from);
  };
  if constexpr (!Tiling::kChunked) load_rows(0);

  const bool unfolded = HasUnfoldedRows(params, work.batch, work.head);
  Accumulator k_bar[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Accumulator v_bar[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Clear(k_bar);
  Clear(v_bar);
  constexpr int kFragments = Tiling::kResident ? Tiling::kDim / Mma::kDepth : 1;
  typename Mma::A k_rows[kFragments][Tiling::kRowTiles];
  typename Mma::A v_rows[kFragments][Tiling::kRowTiles];

  StreamTiles<Tiling>(
      stages, steps * params.group, IsIdle<Tiling>(row + warp_row, params.seq_kv),
      [&](int step, std::uint32_t stage) {
        const int head = work.head * params.group + step / steps;
        const int column = first + step % steps * Tiling::kStageColumns;
        if constexpr (!Tiling::kChunked) load_columns(stage, head, column, 0);
        LoadStatistics<Tiling>(stage + 2 * Tiling::kColumnTileBytes, params, work.batch, head,
                               column);
      },
      [&](int step, std::uint32_t stage) {
        const int head = work.head * params.group + step / steps;
        const std::uint32_t k = k_tile + warp_row * Tiling::kStride * kBytes;
        const std::uint32_t v = k + Tiling::kRowTileBytes;
        if constexpr (Tiling::kResident) {
          if (step == 0) {
            LoadRowFragments<Mma, Tiling::kStride>(k_rows, k);
            LoadRowFragments<Mma, Tiling::kStride>(v_rows, v);
          }
        }
#pragma unroll 1
        for (int part = 0; part < Tiling::kParts; ++part) {
          const int column = first + step % steps * Tiling::kStageColumns + part * Tiling::kColumns;
          const TilePosition position = {work.batch, head, row + warp_row, column};
          const bool whole = whole_rows && column >= queries.full_begin &&
                             column + Tiling::kColumns <= queries.full_end;
          const std::uint32_t q = stage + part * Tiling::kColumns * Tiling::kStride * kBytes;
          const std::uint32_t o_bar = q + Tiling::kColumnTileBytes;
          const std::uint32_t statistics =
              stage + 2 * Tiling::kColumnTileBytes +
              part * Tiling::kColumns * static_cast<int>(sizeof(RowStatistics<Accumulator>));

          Accumulator s[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
          Accumulator p_bar[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
          Clear(s);
          Clear(p_bar);
          if constexpr (Tiling::kResident) {
            AddFragmentsByRows<typename Mma::Transposed, Tiling::kStride>(s, k_rows, q);
            AddFragmentsByRows<Mma, Tiling::kStride>(p_bar, v_rows, o_bar);
          } else {
            const auto multiply = [&] {
              AddRowsByRows<typename Mma::Transposed, Tiling::kTileDim, Tiling::kStride>(s, k, q);
              AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(p_bar, v, o_bar);
            };
            if constexpr (Tiling::kChunked) {
              ForEachChunk<Tiling>(
                  [&](int from) {
                    load_rows(from);
                    load_columns(stage, head, column, from);
                  },
                  multiply);
              __syncthreads();
              const auto load = [&](int index, const InputRows& rows, int columns) {
                LoadTile<Tiling, Tiling::kColumns, Tiling::kSlice, Tiling::kOutputStride>(
                    k_tile + index * Tiling::kOutputTileBytes, rows, work.batch, head, column,
                    params.seq_q, columns, work.slice * Tiling::kSlice);
              };
              load(0, params.q, params.head_dim);
              load(1, params.o_bar, params.head_dim_v);
              sm80::CommitCopies();
              sm80::WaitForCopies<0>();
              __syncthreads();
            } else {
              multiply();
            }
          }
          CapTile<Tiling, Tiling::kRowTiles, Tiling::kColumnBlocks> cap;
          MakeScores<Tiling, true>(params, position, whole, s, cap);
          if (Tiling::kGeneral || !whole) {
            ClearBeside(-static_cast<Accumulator>(INFINITY), s, p_bar);
          }
          KeptElements<Tiling::kRowTiles, Tiling::kColumnBlocks> kept;
          if (dropout) {
            kept.template Draw<true>(params, position);
            kept.Apply(p_bar);
          }
          ForEachColumn<false, Tiling::kColumnBlocks>(
              statistics, Accumulator(0),
              [&](int block, int side, const RowStatistics<Accumulator>& of_row) {
#pragma unroll
                for (int tile = 0; tile < Tiling::kRowTiles; ++tile) {
#pragma unroll
                  for (int e = side; e < 4; e += 2) {
                    const Accumulator p = Mma::Exp2(
                        Exponent<Tiling::kGeneral>(s[tile][block][e], log2_scale, of_row.shift));
                    const Accumulator gradient = Tiling::kGeneral
                                                     ? p_bar[tile][block][e] * keep_scale
                                                     : p_bar[tile][block][e];
                    s[tile][block][e] = p;
                    p_bar[tile][block][e] = p * (gradient - of_row.delta);  // S_bar
                  }
                }
              });
          if (unfolded) {
            const Accumulator* sums =
                InverseSumsOfHead<Accumulator>(params, work.batch, head) + column;
            ScaleProbabilities(sums, s);
            ScaleDerivatives(sums, p_bar);
          }
          PullThroughCap<Tiling>(cap, p_bar);
          if (dropout) kept.Apply(s);
          const std::uint32_t slice = work.slice * Tiling::kSlice * kBytes;
          const std::uint32_t q_slice = Tiling::kChunked ? k_tile : q + slice;
          const std::uint32_t o_bar_slice =
              Tiling::kChunked ? k_tile + Tiling::kOutputTileBytes : o_bar + slice;
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(v_bar, s, o_bar_slice);
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(k_bar, p_bar, q_slice);
        }
      });

  const Accumulator scale = static_cast<Accumulator>(params.scale);
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_kv + work.head, row + warp_row,
           params.seq_kv, work.slice, Tiling::kSlices, k_bar, v_bar);
  const auto store = [&](const OutputRows& rows, int columns, const auto& x, Accumulator factor) {
    if (rows.data == nullptr) return;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_kv,
                   work.slice * Tiling::kSlice, columns, x, [&](int, int) { return factor; });
  };
  store(params.k_bar, params.head_dim, k_bar, scale);
  store(params.v_bar, params.head_dim_v, v_bar, keep_scale);
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_VJP_CUH_
