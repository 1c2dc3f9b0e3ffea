#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_FORWARD_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_FORWARD_CUH_

#include <type_traits>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/online_softmax.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/sm90a/epilogue.cuh"
#include "kernels/cuda/attention/sm90a/products.cuh"
#include "kernels/cuda/attention/sm90a/ring.cuh"
#include "kernels/cuda/attention/sm90a/tile_queue.cuh"
#include "kernels/cuda/attention/sm90a/tiling.h"

namespace theria::cuda::sm90a {

// o = P v and lse = logsumexp_j S of one tile of queries after the other; keys and values stream
// past. The scores of a step are multiplied while the output of the step before is, across tiles
// too, and warpgroups take turns: one exponentiates while the products of another run.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    ForwardKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr int kBlocks = Tiling::kColumns / 8;
  constexpr int kOutputBlocks = Tiling::kDim / 8;
  const AttentionParams& params = all.attention;

  extern __shared__ unsigned char shared_memory[];
  auto tiles = SharedTiles<Tiling>::Make(shared_memory);

  const int row_tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const int warpgroup = WarpgroupIndex();
  // Rows without keys take one step too, in which every key is forbidden.
  const auto steps_of = [&](int row) {
    const Steps steps = Steps::OfQueries<Tiling>(params, row);
    return Steps{steps.first, max(steps.count, 1)};
  };

  if (warpgroup == 0) {
    ReleaseRegisters<Tiling::kCopyRegisters>();
    if (threadIdx.x != 0) return;
    ProduceTiles<true>(all, tiles, params.heads_q, row_tiles, [&](const BlockWork& work) {
      const int row = work.tile * Tiling::kRows;
      const int head_kv = work.head / params.group;
      ArriveExpecting(tiles.rows.full(), Tiling::kRowTileBytes);
      LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile(), all.q, tiles.rows.full(), work.batch,
                                            work.head, row);
      const Steps steps = steps_of(row);
      for (int step = 0; step < steps.count; ++step) {
        const int column = steps.first + step * Tiling::kColumns;
        tiles.scores.BeginFill(Tiling::kScoreCopyBytes);
        LoadMovingTile<Tiling>(tiles.scores, 0, all.k, work.batch, head_kv, column);
        tiles.scores.Advance();
        tiles.values.BeginFill(Tiling::kValueStageBytes);
        LoadMovingTile<Tiling>(tiles.values, 0, all.v, work.batch, head_kv, column);
        tiles.values.Advance();
      }
    });
    return;
  }

  AcquireRegisters<Tiling::kComputeRegisters>();
  const float log2_scale = Log2Scale<false>(static_cast<float>(params.scale));

  const std::uint32_t group_rows = (warpgroup - 1) * 64 * kPanelRowBytes;

  float o[1][kOutputBlocks][4];
  float s[1][kBlocks][4];
  typename Mma::A p[kBlocks / 2];
  using Softmax = OnlineSoftmax<Mma, 1>;

  // Little lives from step to step beside the accumulators: a tile's number, and what its steps
  // are.
  const auto work_of = [&](unsigned index) {
    return WorkOfIndex<true>(all, params.heads_q, row_tiles, index);
  };
  const auto warp_offset = [] { return static_cast<int>(ThreadIndex() / 32 * 16) - 64; };
  const auto store = [&](unsigned index, const Softmax& softmax,
                         const float(&x)[1][kOutputBlocks][4]) {
    const BlockWork work = work_of(index);
    const int row = work.tile * Tiling::kRows + warp_offset();
    NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row,
             params.seq_q, 0, 1, x);
    if (params.o_out.data != nullptr) {
      StoreWideRows<Mma>(params.o_out, work.batch, work.head, row, params.seq_q, params.head_dim_v,
                         x, [&](int tile, int half) { return softmax.InverseSum(tile, half); });
    }
    StoreRowValues<float, 1>(params.lse, params, work.batch, work.head, row,
                             [&](int tile, int half) { return softmax.LogSumExp(tile, half); });
    StoreRowValues<SoftmaxSum<float>, 1>(
        params.row_sums, params, work.batch, work.head, row,
        [&](int tile, int half) { return softmax.Sum(tile, half); });
  };
  unsigned index = 0;  // of the tile
  int row = 0, column = 0, column_end = 0;
  int rows_index = 0;  // the buffer of its queries
  const auto begin_tile = [&] {
    row = work_of(index).tile * Tiling::kRows;
    const Steps steps = steps_of(row);
    column = Uniform(steps.first);
    column_end = Uniform(steps.first + steps.count * Tiling::kColumns);
    rows_index = Uniform(tiles.rows.index());
    tiles.rows.Advance();
  };
  // Both wait for their tiles beforehand: no loop may stand between the fence and the products.
  const auto start_scores = [&] {
    MultiplyRowTiles<Tiling>(s, tiles.rows.tile(rows_index) + group_rows, tiles.scores.tile());
    CommitProducts();
  };
  const auto start_output = [&] {
    AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(o, p, tiles.values.tile());
    CommitProducts();
  };
  const auto finish_output = [&](auto pending) {
    WaitFor<decltype(pending)::value>(o);
    tiles.values.Release(tiles.values.index());
    tiles.values.Advance();
  };

  const auto finish = [&](unsigned done, Softmax& softmax) {
    tiles.values.WaitUntilFull();
    PinAccumulators(o);
    FenceProducts();
    start_output();
    softmax.Finish();
    finish_output(std::integral_constant<int, 0>());
    store(done, softmax, o);
  };

  constexpr bool kAcrossTiles = Tiling::kRowStages > 1;
  Turns<Tiling::kConsumers> turns(warpgroup - 1);
  turns.Begin();
  index = NextTile(tiles);  // a block has at least one
  if constexpr (kAcrossTiles) {
    begin_tile();
    tiles.scores.WaitUntilFull();
    FenceProducts();
    start_scores();
    WaitFor<0>(s);
  }
#pragma unroll 1
  while (true) {
    if constexpr (!kAcrossTiles) begin_tile();
    // The tiles of keys that take part in all rows of the warpgroup start at one of whole_count
    // from whole_begin on.
    const KeySpan keys =
        KeysOfQueries(params, row + (warpgroup - 1) * 64, row + warpgroup * 64 - 1);
    const int whole_begin = Uniform(keys.full_begin);
    const int whole_count = Uniform(max(keys.full_end - Tiling::kColumns + 1 - whole_begin, 0));
    Softmax softmax(log2_scale);
    // The scores of a step become exponentials; what was summed before must shrink by `factor`.
    const auto exponentiate = [&](float(&factor)[1][2]) {
      tiles.scores.Release(tiles.scores.index());
      tiles.scores.Advance();
      if (static_cast<unsigned>(column - whole_begin) >= static_cast<unsigned>(whole_count)) {
        ForbidKeys(params, row + warp_offset(), column, s);
      }
      column += Tiling::kColumns;
      if (column >= column_end) tiles.rows.Release(rows_index);
      return softmax.Exponentiate(s, factor);
    };

    float factor[1][2];
    if (!kAcrossTiles) {
      tiles.scores.WaitUntilFull();
      FenceProducts();
      start_scores();
      WaitFor<0>(s);
    }
    exponentiate(factor);
    MakeFragments<Mma>(p, s);
    Clear(o);
#pragma unroll 1
    while (column < column_end) {
      turns.Wait();
      tiles.scores.WaitUntilFull();
      tiles.values.WaitUntilFull();
      PinAccumulators(o);
      FenceProducts();
      start_scores();
      start_output();
      turns.Pass();
      WaitFor<1>(s);
      const bool grew = exponentiate(factor);
      FinishBeforeWait(softmax.LaneSum(0, 0) + softmax.LaneSum(0, 1));
      finish_output(std::integral_constant<int, 0>());
      if (grew) {
#pragma unroll
        for (int block = 0; block < kOutputBlocks; ++block) {
#pragma unroll
          for (int e = 0; e < 4; ++e) o[0][block][e] *= factor[0][e / 2];
        }
      }
      MakeFragments<Mma>(p, s);
    }
    const unsigned done = index;
    if constexpr (kAcrossTiles) {
      index = NextTile(tiles);
      if (index == kNoMoreTiles) {
        finish(done, softmax);
        break;
      }
      begin_tile();
      turns.Wait();
      tiles.values.WaitUntilFull();
      tiles.scores.WaitUntilFull();
      PinAccumulators(o);
      FenceProducts();
      start_output();
      start_scores();
      turns.Pass();
      softmax.Finish();
      finish_output(std::integral_constant<int, 1>());
      store(done, softmax, o);
      WaitFor<0>(s);
    } else {
      finish(done, softmax);
      index = NextTile(tiles);
      if (index == kNoMoreTiles) break;
    }
  }
  turns.End();
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_FORWARD_CUH_
