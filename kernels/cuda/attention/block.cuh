#ifndef THERIA_KERNELS_CUDA_ATTENTION_BLOCK_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_BLOCK_CUH_

#include <cstdint>

#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/attention/score_tile.cuh"
#include "kernels/cuda/primitives/sm80/cp_async.cuh"
#include "kernels/cuda/primitives/sm80/ldmatrix.cuh"

// What all attention kernels do around their products: find a block's work, stream tiles, reduce
// rows, write accumulators.

namespace theria::cuda {

// The part of the problem that a block computes. Neighbouring blocks share a head, so that its
// tensors stay in L2.
struct BlockWork {
  int batch, head, slice, tile;
};

// `kLastFirst`: with causal masks the last tiles are the longest and should start first.
template <bool kLastFirst>
__device__ __forceinline__ BlockWork FindWork(int heads, int slices, int tiles) {
  unsigned index = blockIdx.x;
  BlockWork work;
  work.tile = index % tiles;
  if (kLastFirst) work.tile = tiles - 1 - work.tile;
  index /= tiles;
  work.slice = index % slices;
  index /= slices;
  work.head = index % heads;
  work.batch = index / heads;
  return work;
}

template <typename Element, typename Void>
__device__ __forceinline__ auto* RowPointer(const Rows<Void>& rows, int batch, int head, int row) {
  using Pointer = std::conditional_t<std::is_const_v<Void>, const Element*, Element*>;
  return static_cast<Pointer>(rows.data) + batch * rows.batch_stride + head * rows.head_stride +
         row * rows.row_stride;
}

// Starts the copy of a [kTileRows, kTileDim] tile from row `row` and column `column` of one head.
template <typename Tiling, int kTileRows, int kTileDim = Tiling::kTileDim,
          int kStride = Tiling::kStride>
__device__ __forceinline__ void LoadTile(std::uint32_t destination, const InputRows& rows,
                                         int batch, int head, int row, int row_end, int columns,
                                         int column = 0) {
  using Element = typename Tiling::Element;
  sm80::CopyTileAsync<Element, kTileRows, kTileDim, kStride, Tiling::kThreads>(
      destination, RowPointer<Element>(rows, batch, head, row) + column, rows.row_stride,
      row_end - row, columns - column);
}

// Whether a warp whose rows start at `row` has none below row_end, and need not compute. In chunked
// kernels all warps must, since they load there.
template <typename Tiling>
__device__ __forceinline__ bool IsIdle(int row, int row_end) {
  return !Tiling::kChunked && row >= row_end;
}

// Runs compute(step, stage address) for steps 0 .. count-1 over tiles that load(step, stage
// address) has started to copy, one tile ahead where there are two stages. All threads of the block
// take part; those of an `idle` warp load only. On return the last tile may still be read by other
// warps.
template <typename Tiling, typename Load, typename Compute>
__device__ __forceinline__ void StreamTiles(std::uint32_t stages, int count, bool idle,
                                            const Load& load, const Compute& compute) {
  if constexpr (Tiling::kStages == 1) {
    for (int step = 0; step < count; ++step) {
      if (step > 0) __syncthreads();
      load(step, stages);
      sm80::CommitCopies();
      sm80::WaitForCopies<0>();
      __syncthreads();
      if (!idle) compute(step, stages);
    }
  } else {
    if (count > 0) load(0, stages);
    sm80::CommitCopies();
#pragma unroll 1
    for (int step = 0; step < count; ++step) {
      sm80::WaitForCopies<0>();
      __syncthreads();
      if (step + 1 < count) {
        load(step + 1, stages + (step + 1) % 2 * Tiling::kStageBytes);
        sm80::CommitCopies();
      }
      if (!idle) compute(step, stages + step % 2 * Tiling::kStageBytes);
    }
  }
}

// Runs multiply() over all columns of the head dimension, a chunk at a time, of tiles that
// load(column) starts to copy. All threads of the block take part, none of them still reading the
// tiles; on return other warps may be.
template <typename Tiling, typename Load, typename Multiply>
__device__ __forceinline__ void ForEachChunk(const Load& load, const Multiply& multiply) {
#pragma unroll 1
  for (int column = 0; column < Tiling::kDim; column += Tiling::kTileDim) {
    if (column > 0) __syncthreads();
    load(column);
    sm80::CommitCopies();
    sm80::WaitForCopies<0>();
    __syncthreads();
    multiply();
  }
}

// Sum and maximum over the four lanes that share a row of an accumulator.
template <typename T>
__device__ __forceinline__ T RowSum(T x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

__device__ __forceinline__ float Larger(float x, float y) { return fmaxf(x, y); }
__device__ __forceinline__ double Larger(double x, double y) { return fmax(x, y); }

template <typename T>
__device__ __forceinline__ T RowMaximum(T x) {
  x = Larger(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return Larger(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// Writes a warp's accumulators, times `factor(tile, half)`, to rows row.. below row_end and columns
// column.. below column_end of one head.
template <typename Mma, int kRowTiles, int kBlocks, typename Factor>
__device__ __forceinline__ void StoreRows(
    const OutputRows& rows, int batch, int head, int row, int row_end, int column, int column_end,
    const typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4], const Factor& factor) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row + tile * 16 + half * 8 + lane / 4;
      if (at >= row_end) continue;
      auto* destination = RowPointer<typename Mma::Element>(rows, batch, head, at);
      const auto scale = factor(tile, half);
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int to = column + block * 8 + lane % 4 * 2;
        if (to < column_end) {
          Mma::Store2(destination + to, c[tile][block][2 * half] * scale,
                      c[tile][block][2 * half + 1] * scale);
        }
      }
    }
  }
}

// Notes for each group of rows of a warp whether any accumulator is NaN. `plane`: batch and head of
// the tensor whose rows these are, as one number; `slice` of `slices`: the columns. All lanes call
// it.
template <int kRowTiles, int kBlocks, typename Accumulator, typename... Tiles>
__device__ __forceinline__ void NoteNans(std::uint32_t* flags, std::int64_t plane, int row,
                                         int row_end, int slice, int slices,
                                         const Accumulator (&c)[kRowTiles][kBlocks][4],
                                         const Tiles&... others) {
  if (flags == nullptr) return;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    bool seen = false;
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        seen |= c[tile][block][e] != c[tile][block][e];
        ((seen |= others[tile][block][e] != others[tile][block][e]), ...);
      }
    }
    seen = __any_sync(0xffffffffu, seen);
    const int at = row + tile * 16;
    if (threadIdx.x % 32 != 0 || at >= row_end) continue;
    auto* bytes =
        reinterpret_cast<std::uint8_t*>(flags + plane * NanGroups(row_end) + at / kNanGroupRows);
    bytes[slice] = seen;
    for (int unused = slice == 0 ? slices : kNanSlices; unused < kNanSlices; ++unused) {
      bytes[unused] = 0;
    }
  }
}

// Writes value(tile, half), the same in the four lanes that share a row, to rows row.. below seq_q
// of one head of [batch, heads_q, seq_q] statistics. Nothing if `data` is null.
template <typename Accumulator, int kRowTiles, typename Value>
__device__ __forceinline__ void StoreRowValues(void* data, const AttentionParams& params, int batch,
                                               int head, int row, const Value& value) {
  const int lane = threadIdx.x % 32;
  if (data == nullptr || lane % 4 != 0) return;
  auto* of_head = static_cast<Accumulator*>(data) +
                  (static_cast<std::int64_t>(batch) * params.heads_q + head) * params.seq_q;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row + tile * 16 + half * 8 + lane / 4;
      if (at < params.seq_q) of_head[at] = value(tile, half);
    }
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_BLOCK_CUH_
