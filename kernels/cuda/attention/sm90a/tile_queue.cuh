#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_TILE_QUEUE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_TILE_QUEUE_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/sm90a/params.h"
#include "kernels/cuda/attention/sm90a/ring.cuh"

// The stationary tiles that a block takes one after the other: a persistent grid has at most one
// block for each multiprocessor. The producer thread takes a tile, and its loads run while the
// consumers finish the tile before. The barrier that says that the stationary tensors are there
// hands over the tile's number as well.

namespace theria::cuda::sm90a {

// The tile of that number. Heads are taken in sections, whose moving tensors stay in L2; within a
// section the longest tiles of all heads come first. kLastFirst: with causal masks the last tiles
// are the longest.
template <bool kLastFirst>
__device__ __forceinline__ BlockWork WorkOfIndex(const Params& params, int heads, int tiles,
                                                 unsigned index) {
  const unsigned planes = params.attention.batch * heads;
  const unsigned section_heads = params.section_heads;
  const unsigned section = index / (section_heads * tiles);
  const unsigned within = index - section * (section_heads * tiles);
  const unsigned first = section * section_heads;
  const unsigned count = min(section_heads, planes - first);
  const unsigned plane = first + within % count;
  BlockWork work = {};
  work.batch = static_cast<int>(plane / heads);
  work.head = static_cast<int>(plane % heads);
  work.tile = static_cast<int>(within / count);
  if (kLastFirst) work.tile = tiles - 1 - work.tile;
  return work;
}

// The moving tiles that a stationary tile from `row` on needs: `count` of them from `first` on, of
// each head where rows are keys.
struct Steps {
  int first, count;

  template <typename Tiling>
  static __device__ __forceinline__ Steps OfQueries(const AttentionParams& params, int row) {
    return Of<Tiling>(KeysOfQueries(params, row, min(row + Tiling::kRows, params.seq_q) - 1));
  }
  template <typename Tiling>
  static __device__ __forceinline__ Steps OfKeys(const AttentionParams& params, int row) {
    return Of<Tiling>(QueriesOfKeys(params, row, min(row + Tiling::kRows, params.seq_kv) - 1));
  }

 private:
  template <typename Tiling>
  static __device__ __forceinline__ Steps Of(const KeySpan& span) {
    const int first = span.begin / Tiling::kColumns * Tiling::kColumns;
    return {first, max(span.end - first + Tiling::kColumns - 1, 0) / Tiling::kColumns};
  }
};

// The number after a block's last tile.
inline constexpr std::uint32_t kNoMoreTiles = 0xffffffffu;

// The producer thread: calls load(work) for each tile of the block. `load` announces the bytes of
// the stationary tensors at rows.full(), starts their copies, and fills the other rings.
template <bool kLastFirst, typename Tiles, typename Load>
__device__ __forceinline__ void ProduceTiles(const Params& params, Tiles& tiles, int heads,
                                             int row_tiles, const Load& load) {
  const unsigned count = static_cast<unsigned>(params.attention.batch * heads) * row_tiles;
  unsigned index = blockIdx.x;
  while (true) {
    tiles.rows.WaitUntilEmpty();
    StoreWord(tiles.work + tiles.rows.index() * 4, index < count ? index : kNoMoreTiles);
    if (index >= count) {
      Arrive(tiles.rows.full());
      return;
    }
    load(WorkOfIndex<kLastFirst>(params, heads, row_tiles, index));
    tiles.rows.Advance();
    // Without a counter the tiles are equally long, and every block takes each gridDim.x-th. With
    // one, a block takes its next tile no sooner than it can use it.
    index = params.attention.tile_counter == nullptr
                ? index + gridDim.x
                : gridDim.x + atomicAdd(params.attention.tile_counter, 1u);
  }
}

// A computing warp: waits for the next tile's stationary tensors, in the next buffer of `rows`, and
// returns the tile's number or kNoMoreTiles. Then Advance, in time Release.
template <typename Tiles>
__device__ __forceinline__ unsigned NextTile(const Tiles& tiles) {
  tiles.rows.WaitUntilFull();
  // The lane that releases the buffer reads, see Ring.
  std::uint32_t index = 0;
  if (threadIdx.x % 32 == 0) index = LoadWord(tiles.work + tiles.rows.index() * 4);
  return __shfl_sync(0xffffffffu, index, 0);
}

// The same for a kernel with one buffer: false if there is no tile.
template <bool kLastFirst, typename Tiles>
__device__ __forceinline__ bool NextTile(const Params& params, Tiles& tiles, int heads,
                                         int row_tiles, BlockWork* work) {
  const unsigned index = NextTile(tiles);
  if (index == kNoMoreTiles) return false;
  tiles.rows.Advance();
  *work = WorkOfIndex<kLastFirst>(params, heads, row_tiles, index);
  return true;
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_TILE_QUEUE_CUH_
