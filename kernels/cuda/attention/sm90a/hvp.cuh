#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_HVP_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_HVP_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/score_derivatives.cuh"
#include "kernels/cuda/attention/sm90a/epilogue.cuh"
#include "kernels/cuda/attention/sm90a/products.cuh"
#include "kernels/cuda/attention/sm90a/ring.cuh"
#include "kernels/cuda/attention/sm90a/tile_queue.cuh"
#include "kernels/cuda/attention/sm90a/tiling.h"
#include "kernels/cuda/attention/statistics_tile.cuh"
#include "kernels/cuda/attention/tangents.h"

// The tangent of the VJP as two kernels like that of attention/hvp.cuh. Tangents are all present,
// or all but o_bar_dot.

namespace theria::cuda::sm90a {

// q_bar_dot = scale * (S_bar_dot k + S_bar k_dot), and q_bar = scale * S_bar k where wanted, of one
// tile of queries.
template <typename Tiling, TangentSet kTangents>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    HvpQueriesKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr bool kHasOBarDot = kTangents == TangentSet::kAll;
  constexpr int kBlocks = Tiling::kColumns / 8;
  constexpr int kTangent = Tiling::kTensorBytes;  // from a moving tile to its tangent
  const AttentionParams& params = all.attention;

  extern __shared__ unsigned char shared_memory[];
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const int row_tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const int warpgroup = WarpgroupIndex();

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    if (threadIdx.x != 0) return;
    ProduceTiles<true>(all, tiles, params.heads_q, row_tiles, [&](const BlockWork& work) {
      const int row = work.tile * Tiling::kRows;
      const int head_kv = work.head / params.group;
      const auto load_rows = [&](int index, const CUtensorMap& map) {
        LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile() + index * Tiling::kRowTileBytes,
                                              map, tiles.rows.full(), work.batch, work.head, row);
      };
      ArriveExpecting(tiles.rows.full(), (kHasOBarDot ? 4 : 3) * Tiling::kRowTileBytes);
      load_rows(0, all.q);
      load_rows(1, all.q_dot);
      load_rows(2, all.o_bar);
      if (kHasOBarDot) load_rows(3, all.o_bar_dot);
      const Steps steps = Steps::OfQueries<Tiling>(params, row);
      for (int step = 0; step < steps.count; ++step) {
        const int column = steps.first + step * Tiling::kColumns;
        tiles.scores.BeginFill(Tiling::kScoreCopyBytes);
        LoadMovingTile<Tiling>(tiles.scores, 0, all.k, work.batch, head_kv, column);
        LoadMovingTile<Tiling>(tiles.scores, 1, all.k_dot, work.batch, head_kv, column);
        tiles.scores.Advance();
        tiles.values.BeginFill(Tiling::kValueStageBytes);
        LoadMovingTile<Tiling>(tiles.values, 0, all.v, work.batch, head_kv, column);
        LoadMovingTile<Tiling>(tiles.values, 1, all.v_dot, work.batch, head_kv, column);
        tiles.values.Advance();
      }
    });
    return;
  }

  AcquireRegisters<Tiling::kComputeRegisters>();
  const std::uint32_t q = tiles.rows.tile() + (warpgroup - 1) * 64 * kPanelRowBytes;
  const std::uint32_t q_dot = q + Tiling::kRowTileBytes;
  const std::uint32_t o_bar = q + 2 * Tiling::kRowTileBytes;
  const std::uint32_t o_bar_dot = q + 3 * Tiling::kRowTileBytes;
  const bool wants_primal = params.q_bar.data != nullptr;
  const float scale = static_cast<float>(params.scale);
  const float log2_scale = Log2Scale<false>(scale);

  BlockWork work;
  while (NextTile<true>(all, tiles, params.heads_q, row_tiles, &work)) {
    const int row = work.tile * Tiling::kRows;
    const Steps steps = Steps::OfQueries<Tiling>(params, row);
    // Keys from full_begin to full_end take part in all rows of the warpgroup.
    const int group_row = row + (warpgroup - 1) * 64;
    const KeySpan keys = KeysOfQueries(params, group_row, group_row + 63);
    const int warp_row = row + (static_cast<int>(threadIdx.x) / 32 - 4) * 16;
    RowStatistics<float> statistics[1][2];
    ReadRowStatistics(params, work.batch, work.head, warp_row, statistics);

    float q_bar[1][Tiling::kDim / 8][4];
    float q_bar_dot[1][Tiling::kDim / 8][4];
    Clear(q_bar);
    Clear(q_bar_dot);

#pragma unroll 1
    for (int step = 0; step < steps.count; ++step) {
      float s[1][kBlocks][4];
      float s_dot[1][kBlocks][4];
      float p_bar[1][kBlocks][4];
      float p_bar_dot[1][kBlocks][4];
      tiles.scores.WaitUntilFull();
      tiles.values.WaitUntilFull();
      const std::uint32_t k = tiles.scores.tile();
      const std::uint32_t v = tiles.values.tile();
      FenceProducts();
      MultiplyRowTiles<Tiling>(s, q, k);
      MultiplyRowTiles<Tiling>(s_dot, q_dot, k);
      MultiplyRowTiles<Tiling, true>(s_dot, q, k + kTangent);
      MultiplyRowTiles<Tiling>(p_bar, o_bar, v);
      MultiplyRowTiles<Tiling>(p_bar_dot, o_bar, v + kTangent);
      if constexpr (kHasOBarDot) MultiplyRowTiles<Tiling, true>(p_bar_dot, o_bar_dot, v);
      CommitProducts();
      WaitFor<0>(s, s_dot, p_bar, p_bar_dot);
      if (step + 1 == steps.count) tiles.rows.Release(0);
      tiles.values.Release(tiles.values.index());
      tiles.values.Advance();

      const int column = steps.first + step * Tiling::kColumns;
      if (column < keys.full_begin || column + Tiling::kColumns > keys.full_end) {
        ForbidKeys(params, warp_row, column, s);
        ClearBeside(-INFINITY, s, s_dot, p_bar, p_bar_dot);
      }
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const auto score = Differentiate<Mma, false>(s[0][block][e], s_dot[0][block][e],
                                                       p_bar[0][block][e], p_bar_dot[0][block][e],
                                                       log2_scale, scale, statistics[0][e / 2]);
          s[0][block][e] = score.s_bar;
          s_dot[0][block][e] = score.s_bar_dot;
        }
      }
      typename Mma::A s_bar[kBlocks / 2];
      typename Mma::A s_bar_dot[kBlocks / 2];
      MakeFragments<Mma>(s_bar, s);
      MakeFragments<Mma>(s_bar_dot, s_dot);
      FenceProducts();
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(q_bar_dot, s_bar_dot, k);
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(q_bar_dot, s_bar, k + kTangent);
      if (wants_primal) AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(q_bar, s_bar, k);
      CommitProducts();
      WaitFor<0>(q_bar, q_bar_dot);
      tiles.scores.Release(tiles.scores.index());
      tiles.scores.Advance();
    }

    if (steps.count == 0) tiles.rows.Release(0);
    float inverse_sums[1][2];
    ReadInverseSums(params, work.batch, work.head, warp_row, inverse_sums);
    NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, warp_row,
             params.seq_q, 0, 1, q_bar, q_bar_dot);
    const auto store = [&](const OutputRows& rows, const auto& x) {
      if (rows.data == nullptr) return;
      StoreWideRows<Mma>(rows, work.batch, work.head, warp_row, params.seq_q, params.head_dim, x,
                         [&](int tile, int half) {
                           return scale * FactorOfDerivatives(inverse_sums[tile][half]);
                         });
    };
    store(params.q_bar, q_bar);
    store(params.q_bar_dot, q_bar_dot);
  }
}

// Of one tile of keys, the queries of all the heads that read them streaming past:
//   v_bar_dot = P_dot^T o_bar + P^T o_bar_dot
//   k_bar_dot = scale * (S_bar_dot^T q + S_bar^T q_dot)
// and v_bar, k_bar where HvpKeysHasPrimal.
template <typename Tiling, TangentSet kTangents>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    HvpKeysKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr bool kHasOBarDot = kTangents == TangentSet::kAll;
  constexpr bool kPrimal = HvpKeysHasPrimal(sizeof(typename Tiling::Element), Tiling::kDim);
  constexpr int kBlocks = Tiling::kColumns / 8;
  constexpr int kTangent = Tiling::kTensorBytes;  // from a moving tile to its tangent
  const AttentionParams& params = all.attention;

  extern __shared__ unsigned char shared_memory[];
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const int row_tiles = (params.seq_kv + Tiling::kRows - 1) / Tiling::kRows;
  const int warpgroup = WarpgroupIndex();

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    if (threadIdx.x != 0) return;
    ProduceTiles<false>(all, tiles, params.heads_kv, row_tiles, [&](const BlockWork& work) {
      const int row = work.tile * Tiling::kRows;
      const auto load_rows = [&](int index, const CUtensorMap& map) {
        LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile() + index * Tiling::kRowTileBytes,
                                              map, tiles.rows.full(), work.batch, work.head, row);
      };
      ArriveExpecting(tiles.rows.full(), 4 * Tiling::kRowTileBytes);
      load_rows(0, all.k);
      load_rows(1, all.k_dot);
      load_rows(2, all.v);
      load_rows(3, all.v_dot);
      const Steps steps = Steps::OfKeys<Tiling>(params, row);
      for (int of_group = 0; of_group < params.group; ++of_group) {
        const int head = work.head * params.group + of_group;
        for (int step = 0; step < steps.count; ++step) {
          const int column = steps.first + step * Tiling::kColumns;
          tiles.scores.BeginFill(Tiling::kScoreCopyBytes);
          LoadMovingTile<Tiling>(tiles.scores, 0, all.q, work.batch, head, column);
          LoadMovingTile<Tiling>(tiles.scores, 1, all.q_dot, work.batch, head, column);
          CopyBytes(tiles.scores.tile() + Tiling::kStatisticsOffset,
                    StatisticsOfHead<float>(params, work.batch, head) + column, tiles.scores.full(),
                    Tiling::kStatisticsBytes);
          tiles.scores.Advance();
          tiles.values.BeginFill((kHasOBarDot ? 2 : 1) * Tiling::kColumnTileBytes);
          LoadMovingTile<Tiling>(tiles.values, 0, all.o_bar, work.batch, head, column);
          if (kHasOBarDot) {
            LoadMovingTile<Tiling>(tiles.values, 1, all.o_bar_dot, work.batch, head, column);
          }
          tiles.values.Advance();
        }
      }
    });
    return;
  }

  AcquireRegisters<Tiling::kComputeRegisters>();
  const std::uint32_t k = tiles.rows.tile() + (warpgroup - 1) * 64 * kPanelRowBytes;
  const std::uint32_t k_dot = k + Tiling::kRowTileBytes;
  const std::uint32_t v = k + 2 * Tiling::kRowTileBytes;
  const std::uint32_t v_dot = k + 3 * Tiling::kRowTileBytes;
  const float scale = static_cast<float>(params.scale);
  const float log2_scale = Log2Scale<false>(scale);

  BlockWork work;
  while (NextTile<false>(all, tiles, params.heads_kv, row_tiles, &work)) {
    const int row = work.tile * Tiling::kRows;
    const KeySpan queries = QueriesOfKeys(params, row, min(row + Tiling::kRows, params.seq_kv) - 1);
    const Steps of_head = Steps::OfKeys<Tiling>(params, row);
    const int steps = of_head.count * params.group;
    const int warp_row = row + (static_cast<int>(threadIdx.x) / 32 - 4) * 16;
    // Tiles that start at one of whole_count queries from whole_begin on need no masks.
    const int whole_begin = Uniform(queries.full_begin);
    const int whole_count =
        Uniform(row + Tiling::kRows <= params.seq_kv
                    ? max(queries.full_end - Tiling::kColumns + 1 - queries.full_begin, 0)
                    : 0);
    const int column_begin = Uniform(of_head.first);
    const int column_end = Uniform(queries.end);
    const bool unfolded = HasUnfoldedRows(params, work.batch, work.head);

    constexpr int kPrimalBlocks = kPrimal ? Tiling::kDim / 8 : 1;
    float k_bar[1][kPrimalBlocks][4];
    float v_bar[1][kPrimalBlocks][4];
    float k_bar_dot[1][Tiling::kDim / 8][4];
    float v_bar_dot[1][Tiling::kDim / 8][4];
    Clear(k_bar);
    Clear(v_bar);
    Clear(k_bar_dot);
    Clear(v_bar_dot);

    int column = column_begin;
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      float s[1][kBlocks][4];
      float s_dot[1][kBlocks][4];
      float p_bar[1][kBlocks][4];
      float p_bar_dot[1][kBlocks][4];
      tiles.scores.WaitUntilFull();
      tiles.values.WaitUntilFull();
      const std::uint32_t q = tiles.scores.tile();
      const std::uint32_t o_bar = tiles.values.tile();
      FenceProducts();
      MultiplyRowTiles<Tiling>(s, k, q);
      MultiplyRowTiles<Tiling>(s_dot, k_dot, q);
      MultiplyRowTiles<Tiling, true>(s_dot, k, q + kTangent);
      MultiplyRowTiles<Tiling>(p_bar, v, o_bar);
      MultiplyRowTiles<Tiling>(p_bar_dot, v_dot, o_bar);
      if constexpr (kHasOBarDot) MultiplyRowTiles<Tiling, true>(p_bar_dot, v, o_bar + kTangent);
      CommitProducts();
      WaitFor<0>(s, s_dot, p_bar, p_bar_dot);

      const bool whole =
          static_cast<unsigned>(column - whole_begin) < static_cast<unsigned>(whole_count);
      ModifyScores<false, true>(params, {work.batch, 0, warp_row, column}, whole, s);
      if (!whole) ClearBeside(-INFINITY, s, s_dot, p_bar, p_bar_dot);
      ForEachColumn<true, kBlocks>(q + Tiling::kStatisticsOffset, 0.0f,
                                   [&](int block, int side, const RowStatistics<float>& of_row) {
#pragma unroll
                                     for (int e = side; e < 4; e += 2) {
                                       const auto score = Differentiate<Mma, false>(
                                           s[0][block][e], s_dot[0][block][e], p_bar[0][block][e],
                                           p_bar_dot[0][block][e], log2_scale, scale, of_row);
                                       s[0][block][e] = score.p;
                                       s_dot[0][block][e] = score.p_dot;
                                       p_bar[0][block][e] = score.s_bar;
                                       p_bar_dot[0][block][e] = score.s_bar_dot;
                                     }
                                   });
      if (unfolded) {
        const int head = work.head * params.group + step / of_head.count;
        const float* sums = InverseSumsOfHead<float>(params, work.batch, head) + column;
        ScaleProbabilities(sums, s);
        ScaleDerivatives(sums, s_dot, p_bar, p_bar_dot);
      }
      column += Tiling::kColumns;
      if (column >= column_end) column = column_begin;
      typename Mma::A p[kBlocks / 2];
      typename Mma::A p_dot[kBlocks / 2];
      typename Mma::A s_bar[kBlocks / 2];
      typename Mma::A s_bar_dot[kBlocks / 2];
      MakeFragments<Mma>(p, s);
      MakeFragments<Mma>(p_dot, s_dot);
      MakeFragments<Mma>(s_bar, p_bar);
      MakeFragments<Mma>(s_bar_dot, p_bar_dot);
      FenceProducts();
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(v_bar_dot, p_dot, o_bar);
      if constexpr (kHasOBarDot) {
        AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(v_bar_dot, p, o_bar + kTangent);
      }
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(k_bar_dot, s_bar_dot, q);
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(k_bar_dot, s_bar, q + kTangent);
      if constexpr (kPrimal) {
        AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(v_bar, p, o_bar);
        AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(k_bar, s_bar, q);
      }
      CommitProducts();
      WaitFor<0>(k_bar_dot, v_bar_dot);
      if constexpr (kPrimal) WaitFor<0>(k_bar, v_bar);
      tiles.scores.Release(tiles.scores.index());
      tiles.scores.Advance();
      tiles.values.Release(tiles.values.index());
      tiles.values.Advance();
    }

    tiles.rows.Release(0);
    const std::int64_t plane = std::int64_t{work.batch} * params.heads_kv + work.head;
    if constexpr (kPrimal) {
      NoteNans(params.nan_flags, plane, warp_row, params.seq_kv, 0, 1, k_bar_dot, v_bar_dot, k_bar,
               v_bar);
    } else {
      NoteNans(params.nan_flags, plane, warp_row, params.seq_kv, 0, 1, k_bar_dot, v_bar_dot);
    }
    const auto store = [&](const OutputRows& rows, int columns, const auto& x, float factor) {
      if (rows.data == nullptr) return;
      StoreWideRows<Mma>(rows, work.batch, work.head, warp_row, params.seq_kv, columns, x,
                         [&](int, int) { return factor; });
    };
    if constexpr (kPrimal) {
      store(params.k_bar, params.head_dim, k_bar, scale);
      store(params.v_bar, params.head_dim_v, v_bar, 1.0f);
    }
    store(params.k_bar_dot, params.head_dim, k_bar_dot, scale);
    store(params.v_bar_dot, params.head_dim_v, v_bar_dot, 1.0f);
  }
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_HVP_CUH_
