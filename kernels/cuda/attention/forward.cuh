#ifndef THERIA_KERNELS_CUDA_ATTENTION_FORWARD_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_FORWARD_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/extended_scores.cuh"
#include "kernels/cuda/attention/online_softmax.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/saved_lse.cuh"
#include "kernels/cuda/attention/tile_config.h"

namespace theria::cuda {

// o = (P Z) v and lse = logsumexp_j S of one tile of queries; keys and values stream past.
template <typename Tiling>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    ForwardKernel(const __grid_constant__ AttentionParams params) {
  using Mma = typename Tiling::Mma;
  using Accumulator = typename Tiling::Accumulator;
  constexpr int kBytes = sizeof(typename Tiling::Element);

  extern __shared__ __align__(16) unsigned char shared_memory[];
  const std::uint32_t q_tile = sm80::SharedAddress(shared_memory);
  const std::uint32_t stages = q_tile + Tiling::kRowTileBytes;

  const int tiles = (params.seq_q + Tiling::kRows - 1) / Tiling::kRows;
  const BlockWork work = FindWork<true>(params.heads_q, Tiling::kSlices, tiles);
  const int head_kv = work.head / params.group;
  const int row = work.tile * Tiling::kRows;
  if (!NeedsRows<Mma>(params, work.batch, work.head, row, Tiling::kRows)) return;
  const int warp_row = threadIdx.x / 32 * Tiling::kWarpRows;
  const KeySpan keys =
      KeysOfTile<Tiling>(params, work.batch, row, min(row + Tiling::kRows, params.seq_q) - 1);
  const int first = keys.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(keys.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_q;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();

  LoadTile<Tiling, Tiling::kRows>(q_tile, params.q, work.batch, work.head, row, params.seq_q,
                                  params.head_dim);

  Accumulator o[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Clear(o);
  OnlineSoftmax<Mma, Tiling::kRowTiles, Tiling::kGeneral> softmax(
      Log2Scale<Tiling::kGeneral>(static_cast<Accumulator>(params.scale)));

  StreamTiles<Tiling>(
      stages, steps, IsIdle<Tiling>(row + warp_row, params.seq_q),
      [&](int step, std::uint32_t stage) {
        const int column = first + step * Tiling::kColumns;
        LoadTile<Tiling, Tiling::kColumns>(stage, params.k, work.batch, head_kv, column,
                                           params.seq_kv, params.head_dim);
        LoadTile<Tiling, Tiling::kColumns>(stage + Tiling::kColumnTileBytes, params.v, work.batch,
                                           head_kv, column, params.seq_kv, params.head_dim_v);
      },
      [&](int step, std::uint32_t stage) {
        const int column = first + step * Tiling::kColumns;
        const TilePosition position = {work.batch, work.head, row + warp_row, column};
        const bool whole =
            whole_rows && column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
        Accumulator s[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Clear(s);
        AddRowsByRows<Mma, Tiling::kDim, Tiling::kStride>(
            s, q_tile + warp_row * Tiling::kStride * kBytes, stage);
        CapTile<Tiling, Tiling::kRowTiles, Tiling::kColumnBlocks> cap;
        MakeScores<Tiling, false>(params, position, whole, s, cap);
        softmax.template Add<(Tiling::kDim > 64)>(s, [&](int tile, int half, Accumulator factor) {
#pragma unroll
          for (int block = 0; block < Tiling::kSliceBlocks; ++block) {
            o[tile][block][2 * half] *= factor;
            o[tile][block][2 * half + 1] *= factor;
          }
        });
        if (params.o_out.data == nullptr) return;
        if (dropout) {
          KeptElements<Tiling::kRowTiles, Tiling::kColumnBlocks> kept;
          kept.template Draw<false>(params, position);
          kept.Apply(s);
        }
        AddAccumulatorByTile<Mma, Tiling::kStride>(
            o, s, stage + Tiling::kColumnTileBytes + work.slice * Tiling::kSlice * kBytes);
      });

  softmax.Finish();
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row + warp_row,
           params.seq_q, work.slice, Tiling::kSlices, o);
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  if (params.o_out.data != nullptr) {
    StoreRows<Mma>(params.o_out, work.batch, work.head, row + warp_row, params.seq_q,
                   work.slice * Tiling::kSlice, params.head_dim_v, o,
                   [&](int tile, int half) { return softmax.InverseSum(tile, half) * keep_scale; });
  }
  if (work.slice == 0) {
    StoreRowValues<Accumulator, Tiling::kRowTiles>(
        params.lse, params, work.batch, work.head, row + warp_row,
        [&](int tile, int half) { return softmax.LogSumExp(tile, half); });
    StoreRowValues<SoftmaxSum<Accumulator>, Tiling::kRowTiles>(
        params.row_sums, params, work.batch, work.head, row + warp_row,
        [&](int tile, int half) { return softmax.Sum(tile, half); });
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_FORWARD_CUH_
