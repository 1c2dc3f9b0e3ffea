#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_FORWARD_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_FORWARD_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/online_softmax.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/saved_lse.cuh"
#include "kernels/cuda/attention/sm90a/products.cuh"
#include "kernels/cuda/attention/sm90a/ring.cuh"
#include "kernels/cuda/attention/sm90a/tiling.h"

namespace theria::cuda::sm90a {

// o = P v and lse = logsumexp_j S of one tile of queries; keys and values stream past. The scores
// of a tile are multiplied while the output of the tile before is, and warpgroups take turns: one
// exponentiates while the products of another run.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    ForwardKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr int kBlocks = Tiling::kColumns / 8;
  const AttentionParams& params = all.attention;

  const int row_tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<true>(params.heads_q, 1, row_tiles);
  const int row = work.tile * Tiling::kRows;
  if (!NeedsRows<Mma>(params, work.batch, work.head, row, Tiling::kRows)) return;

  extern __shared__ unsigned char shared_memory[];
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const KeySpan keys = KeysOfQueries(params, row, min(row + Tiling::kRows, params.seq_q) - 1);
  const int first = keys.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(keys.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const int warpgroup = WarpgroupIndex();

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    if (threadIdx.x != 0) return;
    const int head_kv = work.head / params.group;
    ArriveExpecting(tiles.rows_full, Tiling::kRowTileBytes);
    LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows, all.q, tiles.rows_full, work.batch, work.head,
                                          row);
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
  const std::uint32_t q = tiles.rows + (warpgroup - 1) * 64 * kPanelRowBytes;
  const bool whole_rows = row + Tiling::kRows <= params.seq_q;

  float o[1][Tiling::kDim / 8][4];
  Clear(o);
  float s[1][kBlocks][4];
  typename Mma::A p[kBlocks / 2];
  OnlineSoftmax<Mma, 1> softmax(Log2Scale<false>(static_cast<float>(params.scale)));

  const auto start_scores = [&] {
    tiles.scores.WaitUntilFull();
    MultiplyRowTiles<Tiling>(s, q, tiles.scores.tile());
    CommitProducts();
  };
  const auto start_output = [&] {
    tiles.values.WaitUntilFull();
    AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(o, p, tiles.values.tile());
    CommitProducts();
  };
  // The scores of a step become exponentials; what was summed before must shrink by `factor`.
  const auto exponentiate = [&](int step, float(&factor)[1][2]) {
    tiles.scores.Release(tiles.scores.index());
    tiles.scores.Advance();
    const int column = first + step * Tiling::kColumns;
    const bool whole =
        whole_rows && column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
    ModifyScores<false, false>(params, {work.batch, work.head, row + warp_row, column}, whole, s);
    return softmax.Exponentiate(s, factor);
  };

  Turns<Tiling::kConsumers> turns(warpgroup - 1);
  WaitForPhase(tiles.rows_full, 0);
  if (steps > 1) turns.Begin();
  float factor[1][2];
  if (steps > 0) {
    FenceProducts();
    start_scores();
    WaitFor<0>(s);
    exponentiate(0, factor);
    MakeFragments<Mma>(p, s);
  }
#pragma unroll 1
  for (int step = 1; step < steps; ++step) {
    turns.Wait();
    PinAccumulators(o);
    FenceProducts();
    start_scores();
    start_output();
    turns.Pass(step + 1 == steps);
    WaitFor<1>(s);
    const bool grew = exponentiate(step, factor);
    WaitFor<0>(o);
    tiles.values.Release(tiles.values.index());
    tiles.values.Advance();
    if (grew) {
#pragma unroll
      for (int block = 0; block < Tiling::kDim / 8; ++block) {
#pragma unroll
        for (int e = 0; e < 4; ++e) o[0][block][e] *= factor[0][e / 2];
      }
    }
    MakeFragments<Mma>(p, s);
  }
  if (steps > 0) {
    PinAccumulators(o);
    FenceProducts();
    start_output();
    WaitFor<0>(o);
  }

  softmax.Finish();
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row + warp_row,
           params.seq_q, 0, 1, o);
  if (params.o_out.data != nullptr) {
    StoreRows<Mma>(params.o_out, work.batch, work.head, row + warp_row, params.seq_q, 0,
                   params.head_dim_v, o,
                   [&](int tile, int half) { return softmax.InverseSum(tile, half); });
  }
  StoreRowValues<float, 1>(params.lse, params, work.batch, work.head, row + warp_row,
                           [&](int tile, int half) { return softmax.LogSumExp(tile, half); });
  StoreRowValues<SoftmaxSum<float>, 1>(params.row_sums, params, work.batch, work.head,
                                       row + warp_row,
                                       [&](int tile, int half) { return softmax.Sum(tile, half); });
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_FORWARD_CUH_
