#ifndef THERIA_KERNELS_CUDA_ATTENTION_JVP_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_JVP_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/extended_scores.cuh"
#include "kernels/cuda/attention/online_softmax.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/tangent_mean.cuh"
#include "kernels/cuda/attention/tangents.h"
#include "kernels/cuda/attention/tile_config.h"

namespace theria::cuda {

// o, lse and their tangents of one tile of queries, in one pass over the keys:
//   o_dot = ((P S_dot) Z) v + (P Z) v_dot - mu o,   mu = rowsum(P S_dot)
template <typename Tiling, TangentSet kTangents>
__global__ void __launch_bounds__(Tiling::kThreads, Tiling::kMinBlocks)
    JvpKernel(const __grid_constant__ AttentionParams params) {
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
  const int first = keys.begin / Tiling::kColumns * Tiling::kColumns;
  const int steps = max(keys.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns;
  const bool whole_rows = row + Tiling::kRows <= params.seq_q;
  const bool dropout = Tiling::kGeneral && params.score_mod.dropout.enabled();
  const bool has_q_dot = kTangents == TangentSet::kAll || params.q_dot.data != nullptr;
  const bool has_k_dot = kTangents == TangentSet::kAll || params.k_dot.data != nullptr;
  const bool has_v_dot = kTangents == TangentSet::kAll || params.v_dot.data != nullptr;
  const bool has_s_dot =
      has_q_dot || has_k_dot || (Tiling::kExtended && params.bias_dot != nullptr);
  const Accumulator scale = static_cast<Accumulator>(params.scale);

  const auto load_rows = [&](int from) {
    const auto load = [&](int index, const InputRows& rows) {
      LoadTile<Tiling, Tiling::kRows>(q_tile + index * Tiling::kRowTileBytes, rows, work.batch,
                                      work.head, row, params.seq_q, params.head_dim, from);
    };
    load(0, params.q);
    if (has_q_dot) load(1, params.q_dot);
  };
  const auto load_keys = [&](std::uint32_t stage, int column, int from) {
    const auto load = [&](int index, const InputRows& rows) {
      LoadTile<Tiling, Tiling::kColumns>(stage + index * Tiling::kColumnTileBytes, rows, work.batch,
                                         head_kv, column, params.seq_kv, params.head_dim, from);
    };
    load(0, params.k);
    if (has_k_dot) load(1, params.k_dot);
  };
  if constexpr (!Tiling::kChunked) load_rows(0);

  Accumulator o[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  Accumulator o_dot[Tiling::kRowTiles][Tiling::kSliceBlocks][4];
  TangentMean<Accumulator, Tiling::kRowTiles> mean;
  Clear(o);
  Clear(o_dot);
  OnlineSoftmax<Mma, Tiling::kRowTiles, Tiling::kGeneral> softmax(
      Log2Scale<Tiling::kGeneral>(scale));

  StreamTiles<Tiling>(
      stages, steps, IsIdle<Tiling>(row + warp_row, params.seq_q),
      [&](int step, std::uint32_t stage) {
        if constexpr (!Tiling::kChunked) {
          const int column = first + step * Tiling::kColumns;
          const auto load = [&](int index, const InputRows& rows) {
            LoadTile<Tiling, Tiling::kColumns>(stage + index * Tiling::kColumnTileBytes, rows,
                                               work.batch, head_kv, column, params.seq_kv,
                                               params.head_dim_v);
          };
          load_keys(stage, column, 0);
          load(2, params.v);
          if (has_v_dot) load(3, params.v_dot);
        }
      },
      [&](int step, std::uint32_t stage) {
        const int column = first + step * Tiling::kColumns;
        const TilePosition position = {work.batch, work.head, row + warp_row, column};
        const bool whole =
            whole_rows && column >= keys.full_begin && column + Tiling::kColumns <= keys.full_end;
        const std::uint32_t q = q_tile + warp_row * Tiling::kStride * kBytes;
        const std::uint32_t q_dot = q + Tiling::kRowTileBytes;
        const std::uint32_t k_dot = stage + Tiling::kColumnTileBytes;
        const std::uint32_t v = Tiling::kChunked ? q_tile
                                                 : stage + 2 * Tiling::kColumnTileBytes +
                                                       work.slice * Tiling::kSlice * kBytes;
        const std::uint32_t v_dot =
            v + (Tiling::kChunked ? Tiling::kOutputTileBytes : Tiling::kColumnTileBytes);

        Accumulator s[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Accumulator s_dot[Tiling::kRowTiles][Tiling::kColumnBlocks][4];
        Clear(s);
        Clear(s_dot);
        const auto multiply = [&] {
          constexpr int kTileDim = Tiling::kTileDim;
          if constexpr (kTangents == TangentSet::kAll) {
            AddRowsByRowsWithTangent<Mma, kTileDim, Tiling::kStride, true, true>(s, s_dot, q, stage,
                                                                                 q_dot, k_dot);
          } else {
            AddRowsByRows<Mma, kTileDim, Tiling::kStride>(s, q, stage);
            if (has_q_dot) AddRowsByRows<Mma, kTileDim, Tiling::kStride>(s_dot, q_dot, stage);
            if (has_k_dot) AddRowsByRows<Mma, kTileDim, Tiling::kStride>(s_dot, q, k_dot);
          }
        };
        if constexpr (Tiling::kChunked) {
          ForEachChunk<Tiling>(
              [&](int from) {
                load_rows(from);
                load_keys(stage, column, from);
              },
              multiply);
          __syncthreads();
          const auto load = [&](std::uint32_t tile, const InputRows& rows) {
            LoadTile<Tiling, Tiling::kColumns, Tiling::kSlice, Tiling::kOutputStride>(
                tile, rows, work.batch, head_kv, column, params.seq_kv, params.head_dim_v,
                work.slice * Tiling::kSlice);
          };
          load(v, params.v);
          if (has_v_dot) load(v_dot, params.v_dot);
          sm80::CommitCopies();
          sm80::WaitForCopies<0>();
          __syncthreads();
        } else {
          multiply();
        }
        CapTile<Tiling, Tiling::kRowTiles, Tiling::kColumnBlocks> cap;
        MakeScores<Tiling, false>(params, position, whole, s, cap);
        if (Tiling::kGeneral || !whole) {
          ClearBeside(-static_cast<Accumulator>(INFINITY), s, s_dot);
        }
        MakeTangents<Tiling, false>(params, position, s, s_dot, cap);
        const bool outweighs = softmax.template Add<(Tiling::kDim > 64)>(
            s, [&](int tile, int half, Accumulator factor) {
#pragma unroll
              for (int block = 0; block < Tiling::kSliceBlocks; ++block) {
                o[tile][block][2 * half] *= factor;
                o[tile][block][2 * half + 1] *= factor;
                o_dot[tile][block][2 * half] *= factor;
                o_dot[tile][block][2 * half + 1] *= factor;
              }
              mean.Rescale(tile, half, factor);
            });
        if (outweighs) {
          const auto before = [&](int tile, int half) { return softmax.LaneSumBefore(tile, half); };
          mean.Recentre(s, s_dot, TangentScale<Tiling>(scale), before, o, o_dot);
        }
        mean.Add(s, TangentScale<Tiling>(scale), s_dot);
        if (dropout) {
          KeptElements<Tiling::kRowTiles, Tiling::kColumnBlocks> kept;
          kept.template Draw<false>(params, position);
          kept.Apply(s);
          kept.Apply(s_dot);
        }
        if (has_s_dot) {
          AddAccumulatorsByTile<Mma, Tiling::kOutputStride>(o, o_dot, s, s_dot, v);
        } else {
          AddAccumulatorByTile<Mma, Tiling::kOutputStride>(o, s, v);
        }
        if (has_v_dot) AddAccumulatorByTile<Mma, Tiling::kOutputStride>(o_dot, s, v_dot);
      });

  softmax.Finish();
  const Accumulator keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  Accumulator mu[Tiling::kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < Tiling::kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Accumulator inverse = softmax.InverseSum(tile, half);
      const Accumulator deviation = mean.Deviation(tile, half, inverse);
      mu[tile][half] = mean.Centre(tile, half) + deviation;
#pragma unroll
      for (int block = 0; block < Tiling::kSliceBlocks; ++block) {
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          o[tile][block][e] *= inverse * keep_scale;
          o_dot[tile][block][e] =
              o_dot[tile][block][e] * (inverse * keep_scale) - deviation * o[tile][block][e];
        }
      }
    }
  }
  if (work.slice == 0) {
    const auto store_values = [&](void* data, const auto& value) {
      using Value = decltype(value(0, 0));
      StoreRowValues<Value, Tiling::kRowTiles>(data, params, work.batch, work.head, row + warp_row,
                                               value);
    };
    store_values(params.row_sums, [&](int tile, int half) { return softmax.Sum(tile, half); });
    store_values(params.lse, [&](int tile, int half) { return softmax.LogSumExp(tile, half); });
    store_values(params.lse_dot, [&](int tile, int half) { return mu[tile][half]; });
  }
  NoteNans(params.nan_flags, std::int64_t{work.batch} * params.heads_q + work.head, row + warp_row,
           params.seq_q, work.slice, Tiling::kSlices, o, o_dot);
  const auto store = [&](const OutputRows& rows, const auto& x) {
    if (rows.data == nullptr) return;
    StoreRows<Mma>(rows, work.batch, work.head, row + warp_row, params.seq_q,
                   work.slice * Tiling::kSlice, params.head_dim_v, x,
                   [](int, int) { return Accumulator(1); });
  };
  store(params.o_out, o);
  store(params.o_dot_out, o_dot);
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_JVP_CUH_
