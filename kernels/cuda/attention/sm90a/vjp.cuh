#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_VJP_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_VJP_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/sm90a/products.cuh"
#include "kernels/cuda/attention/sm90a/ring.cuh"
#include "kernels/cuda/attention/sm90a/tiling.h"
#include "kernels/cuda/attention/statistics_tile.cuh"

// The VJP as two kernels like that of attention/vjp.cuh. The output products of a step run while
// the score products of the next do.

namespace theria::cuda::sm90a {

// q_bar = scale * S_bar k of one tile of queries; keys and values stream past.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    VjpQueriesKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr int kBlocks = Tiling::kColumns / 8;
  const AttentionParams& params = all.attention;

  extern __shared__ unsigned char shared_memory[];
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const int row_tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<true>(params.heads_q, 1, row_tiles);
  const int row = work.tile * Tiling::kRows;
  const KeySpan keys = KeysOfQueries(params, row, min(row + Tiling::kRows, params.seq_q) - 1);
  const int first = keys.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(keys.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const int warpgroup = WarpgroupIndex();

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    if (threadIdx.x != 0) return;
    const int head_kv = work.head / params.group;
    ArriveExpecting(tiles.rows.full(), 2 * Tiling::kRowTileBytes);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile(), all.q, tiles.rows.full(), work.batch,
                                          work.head, row);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile() + Tiling::kRowTileBytes, all.o_bar,
                                          tiles.rows.full(), work.batch, work.head, row);
    for (int step = 0; step < steps; ++step) {
      const int column = first + step * Tiling::kColumns;
      tiles.scores.BeginFill(Tiling::kScoreCopyBytes);
      LoadMovingTile<Tiling>(tiles.scores, 0, all.k, work.batch, head_kv, column);
      tiles.scores.Advance();
      tiles.values.BeginFill(Tiling::kValueStageBytes);
      LoadMovingTile<Tiling>(tiles.values, 0, all.v, work.batch, head_kv, column);
      tiles.values.Advance();
    }
    return;
  }

  AcquireRegisters<Tiling::kComputeRegisters>();
  const int warp_row = (threadIdx.x / 32 - 4) * 16;
  const std::uint32_t q = tiles.rows.tile() + (warpgroup - 1) * 64 * kPanelRowBytes;
  const std::uint32_t o_bar = q + Tiling::kRowTileBytes;
  const bool whole_rows = row + Tiling::kRows <= params.seq_q;
  const float scale = static_cast<float>(params.scale);
  const float log2_scale = Log2Scale<false>(scale);
  RowStatistics<float> statistics[1][2];
  ReadRowStatistics(params, work.batch, work.head, row + warp_row, statistics);

  float q_bar[1][Tiling::kDim / 8][4];
  Clear(q_bar);

  typename Mma::A s_bar[kBlocks / 2];
  std::uint32_t k = 0;  // keys of s_bar, and their buffer
  int used = 0;
  const auto start_output = [&] {
    AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(q_bar, s_bar, k);
    CommitProducts();
  };
  // The products of a step; of the step before, the output where `has_output`.
  const auto compute = [&](int step, auto has_output) {
    constexpr bool kHasOutput = decltype(has_output)::value;
    float s[1][kBlocks][4];
    float p_bar[1][kBlocks][4];
    FenceProducts();
    tiles.scores.WaitUntilFull();
    MultiplyRowTiles<Tiling>(s, q, tiles.scores.tile());
    CommitProducts();
    tiles.values.WaitUntilFull();
    MultiplyRowTiles<Tiling>(p_bar, o_bar, tiles.values.tile());
    CommitProducts();
    if constexpr (kHasOutput) start_output();

    WaitFor<kHasOutput ? 2 : 1>(s);
    const int column = first + step * Tiling::kColumns;
    const bool whole =
        whole_rows && column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
    ModifyScores<false, false>(params, {work.batch, work.head, row + warp_row, column}, whole, s);
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[0][block][e] =
            Mma::Exp2(Exponent<false>(s[0][block][e], log2_scale, statistics[0][e / 2].shift));
      }
    }
    WaitFor<kHasOutput ? 1 : 0>(p_bar);
    if (!whole) ClearBeside(0.0f, s, p_bar);
    tiles.values.Release(tiles.values.index());
    tiles.values.Advance();
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[0][block][e] *= p_bar[0][block][e] - statistics[0][e / 2].delta;
      }
    }
    if constexpr (kHasOutput) {
      WaitFor<0>(q_bar);
      tiles.scores.Release(used);
    }
    MakeFragments<Mma>(s_bar, s);
    k = tiles.scores.tile();
    used = tiles.scores.index();
    tiles.scores.Advance();
  };

  tiles.rows.WaitUntilFull();
  if (steps > 0) {
    compute(0, std::false_type());
#pragma unroll 1
    for (int step = 1; step < steps; ++step) compute(step, std::true_type());
    FenceProducts();
    start_output();
    WaitFor<0>(q_bar);
  }

  float inverse_sums[1][2];
  ReadInverseSums(params, work.batch, work.head, row + warp_row, inverse_sums);
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row + warp_row,
           params.seq_q, 0, 1, q_bar);
  StoreRows<Mma>(
      params.q_bar, work.batch, work.head, row + warp_row, params.seq_q, 0, params.head_dim, q_bar,
      [&](int tile, int half) { return scale * FactorOfDerivatives(inverse_sums[tile][half]); });
}

// k_bar = scale * S_bar^T q and v_bar = P^T o_bar of one tile of keys; the queries of all the heads
// that read these keys stream past. Scores are computed transposed, rows are keys.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    VjpKeysKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr int kBlocks = Tiling::kColumns / 8;
  const AttentionParams& params = all.attention;

  extern __shared__ unsigned char shared_memory[];
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const int row_tiles = (params.seq_kv + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<false>(params.heads_kv, 1, row_tiles);
  const int row = work.tile * Tiling::kRows;
  const KeySpan queries = QueriesOfKeys(params, row, min(row + Tiling::kRows, params.seq_kv) - 1);
  const int first = queries.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps_per_head = max(queries.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const int warpgroup = WarpgroupIndex();

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    if (threadIdx.x != 0) return;
    ArriveExpecting(tiles.rows.full(), 2 * Tiling::kRowTileBytes);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile(), all.k, tiles.rows.full(), work.batch,
                                          work.head, row);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile() + Tiling::kRowTileBytes, all.v,
                                          tiles.rows.full(), work.batch, work.head, row);
    for (int of_group = 0; of_group < params.group; ++of_group) {
      const int head = work.head * params.group + of_group;
      for (int step = 0; step < steps_per_head; ++step) {
        const int column = first + step * Tiling::kColumns;
        tiles.scores.BeginFill(Tiling::kScoreCopyBytes);
        LoadMovingTile<Tiling>(tiles.scores, 0, all.q, work.batch, head, column);
        CopyBytes(tiles.scores.tile() + Tiling::kStatisticsOffset,
                  StatisticsOfHead<float>(params, work.batch, head) + column, tiles.scores.full(),
                  Tiling::kStatisticsBytes);
        tiles.scores.Advance();
        tiles.values.BeginFill(Tiling::kValueStageBytes);
        LoadMovingTile<Tiling>(tiles.values, 0, all.o_bar, work.batch, head, column);
        tiles.values.Advance();
      }
    }
    return;
  }

  AcquireRegisters<Tiling::kComputeRegisters>();
  const int warp_row = (threadIdx.x / 32 - 4) * 16;
  const std::uint32_t k = tiles.rows.tile() + (warpgroup - 1) * 64 * kPanelRowBytes;
  const std::uint32_t v = k + Tiling::kRowTileBytes;
  const bool whole_rows = row + Tiling::kRows <= params.seq_kv;
  const float scale = static_cast<float>(params.scale);
  const float log2_scale = Log2Scale<false>(scale);
  const int steps = steps_per_head * params.group;
  const bool unfolded = HasUnfoldedRows(params, work.batch, work.head);

  float k_bar[1][Tiling::kDim / 8][4];
  float v_bar[1][Tiling::kDim / 8][4];
  Clear(k_bar);
  Clear(v_bar);

  tiles.rows.WaitUntilFull();
  int column = first;
  int used_scores = 0, used_values = 0;  // buffers of the step before
#pragma unroll 1
  for (int step = 0; step < steps; ++step) {
    float s[1][kBlocks][4];
    float p_bar[1][kBlocks][4];
    typename Mma::A p[kBlocks / 2];
    typename Mma::A s_bar[kBlocks / 2];
    const std::uint32_t q = tiles.scores.tile();
    const std::uint32_t o_bar = tiles.values.tile();
    tiles.scores.WaitUntilFull();
    FenceProducts();
    MultiplyRowTiles<Tiling>(s, k, q);
    CommitProducts();
    tiles.values.WaitUntilFull();
    MultiplyRowTiles<Tiling>(p_bar, v, o_bar);
    CommitProducts();
    WaitFor<1>(s);
    if (step > 0) {
      tiles.scores.Release(used_scores);
      tiles.values.Release(used_values);
    }
    used_scores = tiles.scores.index();
    used_values = tiles.values.index();
    tiles.scores.Advance();
    tiles.values.Advance();

    const bool whole =
        whole_rows && column >= queries.full_begin && column + Tiling::kColumns <= queries.full_end;
    ModifyScores<false, true>(params, {work.batch, 0, row + warp_row, column}, whole, s);
    ForEachColumn<false, kBlocks>(
        q + Tiling::kStatisticsOffset, 0.0f,
        [&](int block, int side, const RowStatistics<float>& of_row) {
#pragma unroll
          for (int e = side; e < 4; e += 2) {
            s[0][block][e] = Mma::Exp2(Exponent<false>(s[0][block][e], log2_scale, of_row.shift));
          }
        });
    const float* sums =
        unfolded ? InverseSumsOfHead<float>(params, work.batch,
                                            work.head * params.group + step / steps_per_head) +
                       column
                 : nullptr;
    if (unfolded) ScaleProbabilities(sums, s);
    column += Tiling::kColumns;
    if (column >= queries.end) column = first;
    MakeFragments<Mma>(p, s);
    FenceProducts();
    AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(v_bar, p, o_bar);
    CommitProducts();
    WaitFor<1>(p_bar);
    if (!whole) ClearBeside(0.0f, s, p_bar);
    ForEachColumn<false, kBlocks>(q + Tiling::kStatisticsOffset, 0.0f,
                                  [&](int block, int side, const RowStatistics<float>& of_row) {
#pragma unroll
                                    for (int e = side; e < 4; e += 2) {
                                      s[0][block][e] *= p_bar[0][block][e] - of_row.delta;
                                    }
                                  });
    if (unfolded) ClearOneHot(sums, s);
    MakeFragments<Mma>(s_bar, s);
    FenceProducts();
    AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(k_bar, s_bar, q);
    CommitProducts();
    WaitForProducts<1>();  // for v_bar's, so that p need not be kept
  }
  WaitFor<0>(k_bar, v_bar);

  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_kv + work.head, row + warp_row,
           params.seq_kv, 0, 1, k_bar, v_bar);
  const auto store = [&](const OutputRows& rows, int columns, const auto& x, float factor) {
    if (rows.data == nullptr) return;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_kv, 0, columns, x,
                   [&](int, int) { return factor; });
  };
  store(params.k_bar, params.head_dim, k_bar, scale);
  store(params.v_bar, params.head_dim_v, v_bar, 1.0f);
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_VJP_CUH_
