#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_JVP_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_JVP_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/online_softmax.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/sm90a/epilogue.cuh"
#include "kernels/cuda/attention/sm90a/products.cuh"
#include "kernels/cuda/attention/sm90a/ring.cuh"
#include "kernels/cuda/attention/sm90a/tile_queue.cuh"
#include "kernels/cuda/attention/sm90a/tiling.h"
#include "kernels/cuda/attention/tangent_mean.cuh"

namespace theria::cuda::sm90a {

// o, lse and their tangents of one tile of queries after the other, in one pass over the keys, as
// attention/jvp.cuh has them. All tangents are present.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, 1)
    JvpKernel(const __grid_constant__ Params all) {
  using Mma = typename Tiling::Mma;
  constexpr int kBlocks = Tiling::kColumns / 8;
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
      ArriveExpecting(tiles.rows.full(), 2 * Tiling::kRowTileBytes);
      LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile(), all.q, tiles.rows.full(), work.batch,
                                            work.head, row);
      LoadTile<Tiling::kRows, Tiling::kDim>(tiles.rows.tile() + Tiling::kRowTileBytes, all.q_dot,
                                            tiles.rows.full(), work.batch, work.head, row);
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
  const float scale = static_cast<float>(params.scale);

  BlockWork work;
  while (NextTile<true>(all, tiles, params.heads_q, row_tiles, &work)) {
    const int row = work.tile * Tiling::kRows;
    const Steps steps = Steps::OfQueries<Tiling>(params, row);
    // Keys from full_begin to full_end take part in all rows of the warpgroup.
    const int group_row = row + (warpgroup - 1) * 64;
    const KeySpan keys = KeysOfQueries(params, group_row, group_row + 63);
    const int warp_row = row + (static_cast<int>(threadIdx.x) / 32 - 4) * 16;

    float o[1][Tiling::kDim / 8][4];
    float o_dot[1][Tiling::kDim / 8][4];
    TangentMean<float, 1> mean;
    Clear(o);
    Clear(o_dot);
    OnlineSoftmax<Mma, 1> softmax(Log2Scale<false>(scale));

#pragma unroll 1
    for (int step = 0; step < steps.count; ++step) {
      float s[1][kBlocks][4];
      float s_dot[1][kBlocks][4];
      FenceProducts();
      tiles.scores.WaitUntilFull();
      const std::uint32_t k = tiles.scores.tile();
      MultiplyRowTiles<Tiling>(s, q, k);
      CommitProducts();
      MultiplyRowTiles<Tiling>(s_dot, q_dot, k);
      MultiplyRowTiles<Tiling, true>(s_dot, q, k + Tiling::kTensorBytes);
      CommitProducts();
      WaitFor<1>(s);

      const int column = steps.first + step * Tiling::kColumns;
      const bool whole = column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
      if (!whole) ForbidKeys(params, warp_row, column, s);
      float factor[1][2];
      const bool grew = softmax.Exponentiate(s, factor);
      if (grew) {
#pragma unroll
        for (int block = 0; block < Tiling::kDim / 8; ++block) {
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            o[0][block][e] *= factor[0][e / 2];
            o_dot[0][block][e] *= factor[0][e / 2];
          }
        }
        mean.Rescale(0, 0, factor[0][0]);
        mean.Rescale(0, 1, factor[0][1]);
      }
      WaitFor<0>(s_dot);
      if (!whole) ClearBeside(0.0f, s, s_dot);
      tiles.scores.Release(tiles.scores.index());
      tiles.scores.Advance();
      if (grew && softmax.Outweighs(factor)) {
        const auto before = [&](int tile, int half) { return softmax.LaneSumBefore(tile, half); };
        mean.Recentre(s, s_dot, scale, before, o, o_dot);
      }
      mean.Add(s, scale, s_dot);
      typename Mma::A p[kBlocks / 2];
      typename Mma::A p_dot[kBlocks / 2];
      MakeFragments<Mma>(p, s);
      MakeFragments<Mma>(p_dot, s_dot);
      PinAccumulators(o);
      PinAccumulators(o_dot);
      FenceProducts();
      tiles.values.WaitUntilFull();
      const std::uint32_t v = tiles.values.tile();
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(o, p, v);
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(o_dot, p_dot, v);
      AddFragmentsByTile<Mma, Tiling::kColumnPanelBytes>(o_dot, p, v + Tiling::kTensorBytes);
      CommitProducts();
      WaitFor<0>(o, o_dot);
      tiles.values.Release(tiles.values.index());
      tiles.values.Advance();
    }

    tiles.rows.Release(0);
    softmax.Finish();
    float mu[1][2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float inverse = softmax.InverseSum(0, half);
      const float deviation = mean.Deviation(0, half, inverse);
      mu[0][half] = mean.Centre(0, half) + deviation;
#pragma unroll
      for (int block = 0; block < Tiling::kDim / 8; ++block) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          o[0][block][e] *= inverse;
          o_dot[0][block][e] = o_dot[0][block][e] * inverse - deviation * o[0][block][e];
        }
      }
    }
    const auto store_values = [&](void* data, const auto& value) {
      using Value = decltype(value(0, 0));
      StoreRowValues<Value, 1>(data, params, work.batch, work.head, warp_row, value);
    };
    store_values(params.row_sums, [&](int tile, int half) { return softmax.Sum(tile, half); });
    store_values(params.lse, [&](int tile, int half) { return softmax.LogSumExp(tile, half); });
    store_values(params.lse_dot, [&](int tile, int half) { return mu[tile][half]; });
    NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, warp_row,
             params.seq_q, 0, 1, o, o_dot);
    const auto store = [&](const OutputRows& rows, const auto& x) {
      if (rows.data == nullptr) return;
      StoreWideRows<Mma>(rows, work.batch, work.head, warp_row, params.seq_q, params.head_dim_v, x,
                         [](int, int) { return 1.0f; });
    };
    store(params.o_out, o);
    store(params.o_dot_out, o_dot);
  }
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_JVP_CUH_
