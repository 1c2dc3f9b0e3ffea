#ifndef THERIA_KERNELS_CUDA_ATTENTION_HVP_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_HVP_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/extended_scores.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/score_derivatives.cuh"
#include "kernels/cuda/attention/statistics_tile.cuh"
#include "kernels/cuda/attention/tangents.h"
#include "kernels/cuda/attention/tile_config.h"

// The tangent of the VJP, forward over reverse, as two kernels like the VJP itself:
//   P_bar_dot = (o_bar_dot v^T + o_bar v_dot^T) Z
//   S_bar_dot = S_bar (S_dot - mu) + P (P_bar_dot - delta_dot)
//   P_dot     = P (S_dot - mu)
// with S_dot as in the JVP, P_bar and S_bar as in the VJP, and all row statistics known.

namespace theria::cuda {

// The products S and S_dot of one side, or P_bar and P_bar_dot: a and b with their tangents.
template <typename Tiling, bool kKnown, bool kHasADot, bool kHasBDot, int kRowTiles, int kBlocks>
__device__ __forceinline__ void AddProductAndTangent(
    typename Tiling::Accumulator (&c)[kRowTiles][kBlocks][4],
    typename Tiling::Accumulator (&c_dot)[kRowTiles][kBlocks][4], std::uint32_t a, std::uint32_t b,
    std::uint32_t a_dot, std::uint32_t b_dot, bool has_a_dot, bool has_b_dot) {
  // The same sums as where rows are queries, bit for bit: P is rebuilt from row sums of theirs.
  using Mma =
      std::conditional_t<Tiling::kKeyRows, typename Tiling::Mma::Transposed, typename Tiling::Mma>;
  if constexpr (kKnown) {
    AddRowsByRowsWithTangent<Mma, Tiling::kTileDim, Tiling::kStride, kHasADot, kHasBDot>(
        c, c_dot, a, b, a_dot, b_dot);
  } else {
    AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(c, a, b);
    if (has_a_dot) AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(c_dot, a_dot, b);
    if (has_b_dot) AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(c_dot, a, b_dot);
  }
}

// q_bar_dot = scale * (S_bar_dot k + S_bar k_dot), and q_bar where wanted, of one tile of queries.
template <typename Tiling, TangentSet kTangents>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    HvpQueriesKernel(const __grid_constant__ AttentionParams params) {
  using Mma = typename Tiling::Mma;
  using Accumulator = typename Tiling::Accumulator;
  constexpr int kBytes = sizeof(typename Tiling::Element);
  constexpr int kTile = Tiling::kColumnTileBytes;
  constexpr int kOutputTile = Tiling::kChunked ? Tiling::kOutputTileBytes : kTile;
  constexpr bool kKnown = kTangents != TangentSet::kSome;

  extern __shared__ __align__(16) unsigned char shared_memory[];
  const std::uint32_t q_tile = sm80::SharedAddress(shared_memory);
  const std::uint32_t stages = q_tile + 4 * Tiling::kRowTileBytes;

  const int tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<true>(params.heads_q, Tiling::kSlices, tiles);
  const int head_kv = work.head / params.group;
  const int row = work.tile * Tiling::kRows;
  const int warp_row = threadIdx.x / 32 * Tiling::kWarpRows;
  const KeySpan keys =
      KeysOfTile<Tiling>(params, work.batch, row, min(row + Tiling::kRows, params.seq_q) - 1);
  const int first = keys.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(keys.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_q;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();
  const bool has_q_dot = kKnown || params.q_dot.data != nullptr;
  const bool has_k_dot = kKnown || params.k_dot.data != nullptr;
  const bool has_v_dot = kKnown || params.v_dot.data != nullptr;
  const bool has_o_bar_dot =
      kTangents == TangentSet::kAll || (!kKnown && params.o_bar_dot.data != nullptr);
  const bool wants_primal = params.q_bar.data != nullptr;
  const Accumulator scale = static_cast<Accumulator>(params.scale);
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  const Accumulator log2_scale = Log2Scale<Tiling::kGeneral>(scale);

  const auto load_rows = [&](int from) {
    const auto load = [&](int index, const InputRows& rows, int columns) {
      LoadTile<Tiling, Tiling::kRows>(q_tile + index * Tiling::kRowTileBytes, rows, work.batch,
                                      work.head, row, params.seq_q, columns, from);
    };
    load(0, params.q, params.head_dim);
    if (has_q_dot) load(1, params.q_dot, params.head_dim);
    load(2, params.o_bar, params.head_dim_v);
    if (has_o_bar_dot) load(3, params.o_bar_dot, params.head_dim_v);
  };
  const auto load_columns = [&](std::uint32_t stage, int column, int from) {
    const auto load = [&](int index, const InputRows& rows, int columns) {
      LoadTile<Tiling, Tiling::kColumns>(stage + index * kTile, rows, work.batch, head_kv, column,
                                         params.seq_kv, columns, from);
    };
    load(0, params.k, params.head_dim);
    if (has_k_dot) load(1, params.k_dot, params.head_dim);
    load(2, params.v, params.head_dim_v);
    if (has_v_dot) load(3, params.v_dot, params.head_dim_v);
  };
  if constexpr (!Tiling::kChunked) load_rows(0);
  RowStatistics<Accumulator> statistics[Tiling::kRowTiles][2];
  ReadRowStatistics(params, work.batch, work.head, row + warp_row, statistics);

  Accumulator q_bar[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Accumulator q_bar_dot[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Clear(q_bar);
  Clear(q_bar_dot);

  StreamTiles<Tiling>(
      stages, steps, IsIdle<Tiling>(row + warp_row, params.seq_q),
      [&](int step, std::uint32_t stage) {
        if constexpr (!Tiling::kChunked) load_columns(stage, first + step * Tiling::kColumns, 0);
      },
      [&](int step, std::uint32_t stage) {
        const int column = first + step * Tiling::kColumns;
        const TilePosition position = {work.batch, work.head, row + warp_row, column};
        const bool whole =
            whole_rows && column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
        const std::uint32_t q = q_tile + warp_row * Tiling::kStride * kBytes;
        const std::uint32_t q_dot = q + Tiling::kRowTileBytes;
        const std::uint32_t o_bar = q + 2 * Tiling::kRowTileBytes;
        const std::uint32_t o_bar_dot = q + 3 * Tiling::kRowTileBytes;

        Accumulator s[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator s_dot[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator p_bar[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator p_bar_dot[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Clear(s);
        Clear(s_dot);
        Clear(p_bar);
        Clear(p_bar_dot);
        const auto multiply = [&] {
          AddProductAndTangent<Tiling, kKnown, true, true>(s, s_dot, q, stage, q_dot, stage + kTile,
                                                           has_q_dot, has_k_dot);
          AddProductAndTangent<Tiling, kKnown, kTangents == TangentSet::kAll, true>(
              p_bar, p_bar_dot, o_bar, stage + 2 * kTile, o_bar_dot, stage + 3 * kTile,
              has_o_bar_dot, has_v_dot);
        };
        std::uint32_t k = stage + work.slice * Tiling::kSlice * kBytes;
        if constexpr (Tiling::kChunked) {
          ForEachChunk<Tiling>(
              [&](int from) {
                load_rows(from);
                load_columns(stage, column, from);
              },
              multiply);
          __syncthreads();
          k = q_tile;
          const auto load = [&](int index, const InputRows& rows) {
            LoadTile<Tiling, Tiling::kColumns, Tiling::kSlice, Tiling::kOutputStride>(
                k + index * kOutputTile, rows, work.batch, head_kv, column, params.seq_kv,
                params.head_dim, work.slice * Tiling::kSlice);
          };
          load(0, params.k);
          if (has_k_dot) load(1, params.k_dot);
          sm80::CommitCopies();
          sm80::WaitForCopies<0>();
          __syncthreads();
        } else {
          multiply();
        }
        CapTile<Tiling, Tiling::kRowTiles, Tiling::kColumnBlocks> cap;
        MakeScores<Tiling, false>(params, position, whole, s, cap);
        if (Tiling::kGeneral || !whole) {
          ClearBeside(-static_cast<Accumulator>(INFINITY), s, s_dot, p_bar, p_bar_dot);
        }
        MakeTangents<Tiling, false>(params, position, s, s_dot, cap);
        if (dropout) {
          KeptElements<Tiling::kRowTiles, Tiling::kColumnBlocks> kept;
          kept.template Draw<false>(params, position);
          kept.Apply(p_bar);
          kept.Apply(p_bar_dot);
        }
        const Accumulator kept_scale = Tiling::kGeneral ? keep_scale : Accumulator(1);
#pragma unroll
        for (int tile = 0; tile < Tiling::kRowTiles; ++tile) {
#pragma unroll
          for (int block = 0; block < Tiling::kColumnBlocks; ++block) {
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const auto score = Differentiate<Mma, Tiling::kGeneral>(
                  s[tile][block][e], s_dot[tile][block][e], p_bar[tile][block][e] * kept_scale,
                  p_bar_dot[tile][block][e] * kept_scale, log2_scale, TangentScale<Tiling>(scale),
                  statistics[tile][e / 2]);
              s[tile][block][e] = score.s_bar;
              s_dot[tile][block][e] = score.s_bar_dot;
            }
          }
        }
        PullThroughCap<Tiling>(cap, s, s_dot);
        if (wants_primal) {
          AddAccumulatorsByTile<Mma, Tiling::kOutputStride>(q_bar, q_bar_dot, s, s_dot, k);
        } else {
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(q_bar_dot, s_dot, k);
        }
        if (has_k_dot) {
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(q_bar_dot, s, k + kOutputTile);
        }
      });

  Accumulator inverse_sums[Tiling::kRowTiles][2];
  ReadInverseSums(params, work.batch, work.head, row + warp_row, inverse_sums);
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row + warp_row,
           params.seq_q, work.slice, Tiling::kSlices, q_bar, q_bar_dot);
  const auto store = [&](const OutputRows& rows, const auto& x) {
    if (rows.data == nullptr) return;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_q,
                   work.slice * Tiling::kSlice, params.head_dim, x, [&](int tile, int half) {
                     return scale * FactorOfDerivatives(inverse_sums[tile][half]);
                   });
  };
  store(params.q_bar, q_bar);
  store(params.q_bar_dot, q_bar_dot);
}

// Of one tile of keys, the queries of all the heads that read them streaming past:
//   v_bar_dot = (P_dot Z)^T o_bar + (P Z)^T o_bar_dot
//   k_bar_dot = scale * (S_bar_dot^T q + S_bar^T q_dot)
// and v_bar, k_bar where wanted and kPrimal.
template <typename Tiling, TangentSet kTangents>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    HvpKeysKernel(const __grid_constant__ AttentionParams params) {
  using Mma = typename Tiling::Mma;
  using Accumulator = typename Tiling::Accumulator;
  constexpr int kBytes = sizeof(typename Tiling::Element);
  constexpr int kTile = Tiling::kColumnTileBytes;
  constexpr int kOutputTile = Tiling::kChunked ? Tiling::kOutputTileBytes : kTile;
  constexpr bool kKnown = kTangents != TangentSet::kSome;
  constexpr bool kPrimal = HvpKeysHasPrimal(kBytes, Tiling::kDim);

  extern __shared__ __align__(16) unsigned char shared_memory[];
  const std::uint32_t k_tile = sm80::SharedAddress(shared_memory);
  const std::uint32_t stages = k_tile + 4 * Tiling::kRowTileBytes;

  const int tiles = (params.seq_kv + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<false>(params.heads_kv, Tiling::kSlices, tiles);
  const int row = work.tile * Tiling::kRows;
  const int warp_row = threadIdx.x / 32 * Tiling::kWarpRows;
  const KeySpan queries =
      QueriesOfTile<Tiling>(params, work.batch, row, min(row + Tiling::kRows, params.seq_kv) - 1);
  const int first = queries.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(queries.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_kv;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();
  const bool has_q_dot = kKnown || params.q_dot.data != nullptr;
  const bool has_k_dot = kKnown || params.k_dot.data != nullptr;
  const bool has_v_dot = kKnown || params.v_dot.data != nullptr;
  const bool has_s_dot =
      has_q_dot || has_k_dot || (Tiling::kExtended && params.bias_dot != nullptr);
  const bool has_o_bar_dot =
      kTangents == TangentSet::kAll || (!kKnown && params.o_bar_dot.data != nullptr);
  const bool wants_primal =
      kPrimal && (params.k_bar.data != nullptr || params.v_bar.data != nullptr);
  const Accumulator scale = static_cast<Accumulator>(params.scale);
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  const Accumulator log2_scale = Log2Scale<Tiling::kGeneral>(scale);

  const auto load_rows = [&](int from) {
    const auto load = [&](int index, const InputRows& rows, int columns) {
      LoadTile<Tiling, Tiling::kRows>(k_tile + index * Tiling::kRowTileBytes, rows, work.batch,
                                      work.head, row, params.seq_kv, columns, from);
    };
    load(0, params.k, params.head_dim);
    if (has_k_dot) load(1, params.k_dot, params.head_dim);
    load(2, params.v, params.head_dim_v);
    if (has_v_dot) load(3, params.v_dot, params.head_dim_v);
  };
  const auto load_columns = [&](std::uint32_t stage, int head, int column, int from) {
    const auto load = [&](int index, const InputRows& rows, int columns) {
      LoadTile<Tiling, Tiling::kColumns>(stage + index * kTile, rows, work.batch, head, column,
                                         params.seq_q, columns, from);
    };
    load(0, params.q, params.head_dim);
    if (has_q_dot) load(1, params.q_dot, params.head_dim);
    load(2, params.o_bar, params.head_dim_v);
    if (has_o_bar_dot) load(3, params.o_bar_dot, params.head_dim_v);
  };
  if constexpr (!Tiling::kChunked) load_rows(0);

  const bool unfolded = HasUnfoldedRows(params, work.batch, work.head);
  constexpr int kPrimalTiles = kPrimal ? Tiling::kRowTiles : 1;
  constexpr int kPrimalBlocks = kPrimal ? Tiling::kSliceBlocks : 1;
  Accumulator k_bar[kPrimalTiles][kPrimalBlocks][4];
  Accumulator v_bar[kPrimalTiles][kPrimalBlocks][4];
  Accumulator k_bar_dot[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Accumulator v_bar_dot[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Clear(k_bar);
  Clear(v_bar);
  Clear(k_bar_dot);
  Clear(v_bar_dot);

  StreamTiles<Tiling>(
      stages, steps * params.group, IsIdle<Tiling>(row + warp_row, params.seq_kv),
      [&](int step, std::uint32_t stage) {
        const int head = work.head * params.group + step / steps;
        const int column = first + step % steps * Tiling::kColumns;
        if constexpr (!Tiling::kChunked) load_columns(stage, head, column, 0);
        LoadStatistics<Tiling>(stage + 4 * kTile, params, work.batch, head, column);
      },
      [&](int step, std::uint32_t stage) {
        const int head = work.head * params.group + step / steps;
        const int column = first + step % steps * Tiling::kColumns;
        const TilePosition position = {work.batch, head, row + warp_row, column};
        const bool whole = whole_rows && column >= queries.full_begin &&
                           column + Tiling::kColumns <= queries.full_end;
        const std::uint32_t k = k_tile + warp_row * Tiling::kStride * kBytes;
        const std::uint32_t k_dot = k + Tiling::kRowTileBytes;
        const std::uint32_t v = k + 2 * Tiling::kRowTileBytes;
        const std::uint32_t v_dot = k + 3 * Tiling::kRowTileBytes;

        Accumulator s[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator s_dot[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator p_bar[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator p_bar_dot[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Clear(s);
        Clear(s_dot);
        Clear(p_bar);
        Clear(p_bar_dot);
        // Rows are keys: k and v are the left sides, q and o_bar the right ones.
        const auto multiply = [&] {
          AddProductAndTangent<Tiling, kKnown, true, true>(s, s_dot, k, stage, k_dot, stage + kTile,
                                                           has_k_dot, has_q_dot);
          AddProductAndTangent<Tiling, kKnown, true, kTangents == TangentSet::kAll>(
              p_bar, p_bar_dot, v, stage + 2 * kTile, v_dot, stage + 3 * kTile, has_v_dot,
              has_o_bar_dot);
        };
        std::uint32_t q = stage + work.slice * Tiling::kSlice * kBytes;
        if constexpr (Tiling::kChunked) {
          ForEachChunk<Tiling>(
              [&](int from) {
                load_rows(from);
                load_columns(stage, head, column, from);
              },
              multiply);
          __syncthreads();
          q = k_tile;
          const auto load = [&](int index, const InputRows& rows, int columns) {
            LoadTile<Tiling, Tiling::kColumns, Tiling::kSlice, Tiling::kOutputStride>(
                q + index * kOutputTile, rows, work.batch, head, column, params.seq_q, columns,
                work.slice * Tiling::kSlice);
          };
          load(0, params.q, params.head_dim);
          if (has_q_dot) load(1, params.q_dot, params.head_dim);
          load(2, params.o_bar, params.head_dim_v);
          if (has_o_bar_dot) load(3, params.o_bar_dot, params.head_dim_v);
          sm80::CommitCopies();
          sm80::WaitForCopies<0>();
          __syncthreads();
        } else {
          multiply();
        }
        CapTile<Tiling, Tiling::kRowTiles, Tiling::kColumnBlocks> cap;
        MakeScores<Tiling, true>(params, position, whole, s, cap);
        if (Tiling::kGeneral || !whole) {
          ClearBeside(-static_cast<Accumulator>(INFINITY), s, s_dot, p_bar, p_bar_dot);
        }
        MakeTangents<Tiling, true>(params, position, s, s_dot, cap);
        KeptElements<Tiling::kRowTiles, Tiling::kColumnBlocks> kept;
        if (dropout) {
          kept.template Draw<true>(params, position);
          kept.Apply(p_bar);
          kept.Apply(p_bar_dot);
        }
        const Accumulator kept_scale = Tiling::kGeneral ? keep_scale : Accumulator(1);
        ForEachColumn<true, Tiling::kColumnBlocks>(
            stage + 4 * kTile, Accumulator(0),
            [&](int block, int side, const RowStatistics<Accumulator>& of_row) {
#pragma unroll
              for (int tile = 0; tile < Tiling::kRowTiles; ++tile) {
#pragma unroll
                for (int e = side; e < 4; e += 2) {
                  const auto score = Differentiate<Mma, Tiling::kGeneral>(
                      s[tile][block][e], s_dot[tile][block][e], p_bar[tile][block][e] * kept_scale,
                      p_bar_dot[tile][block][e] * kept_scale, log2_scale,
                      TangentScale<Tiling>(scale), of_row);
                  s[tile][block][e] = score.p;
                  s_dot[tile][block][e] = score.p_dot;
                  p_bar[tile][block][e] = score.s_bar;
                  p_bar_dot[tile][block][e] = score.s_bar_dot;
                }
              }
            });
        if (unfolded) {
          const Accumulator* sums =
              InverseSumsOfHead<Accumulator>(params, work.batch, head) + column;
          ScaleProbabilities(sums, s);
          ScaleDerivatives(sums, s_dot, p_bar, p_bar_dot);
        }
        PullThroughCap<Tiling>(cap, p_bar, p_bar_dot);
        if (dropout) {
          kept.Apply(s);
          kept.Apply(s_dot);
        }
        const std::uint32_t o_bar = q + 2 * kOutputTile;
        if constexpr (kPrimal) {
          if (wants_primal) {
            AddAccumulatorsByTile<Mma, Tiling::kOutputStride>(v_bar, v_bar_dot, s, s_dot, o_bar);
            AddAccumulatorsByTile<Mma, Tiling::kOutputStride>(k_bar, k_bar_dot, p_bar, p_bar_dot,
                                                              q);
          }
        }
        if (!wants_primal) {
          if (has_s_dot) {
            AddAccumulatorByTile<Mma, Tiling::kOutputStride>(v_bar_dot, s_dot, o_bar);
          }
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(k_bar_dot, p_bar_dot, q);
        }
        if (has_o_bar_dot)
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(v_bar_dot, s, o_bar + kOutputTile);
        if (has_q_dot) {
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(k_bar_dot, p_bar, q + kOutputTile);
        }
      });

  const std::int64_t plane = std::int64_t{work.batch} * params.heads_kv + work.head;
  if constexpr (kPrimal) {
    NoteNans(params.nan_flags, plane, row + warp_row, params.seq_kv, work.slice, Tiling::kSlices,
             k_bar_dot, v_bar_dot, k_bar, v_bar);
  } else {
    NoteNans(params.nan_flags, plane, row + warp_row, params.seq_kv, work.slice, Tiling::kSlices,
             k_bar_dot, v_bar_dot);
  }
  const auto store = [&](const OutputRows& rows, int columns, const auto& x, Accumulator factor) {
    if (rows.data == nullptr) return;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_kv,
                   work.slice * Tiling::kSlice, columns, x, [&](int, int) { return factor; });
  };
  if constexpr (kPrimal) {
    store(params.k_bar, params.head_dim, k_bar, scale);
    store(params.v_bar, params.head_dim_v, v_bar, keep_scale);
  }
  store(params.k_bar_dot, params.head_dim, k_bar_dot, scale);
  store(params.v_bar_dot, params.head_dim_v, v_bar_dot, keep_scale);
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_HVP_CUH_
