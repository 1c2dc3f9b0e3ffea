#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_RING_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_RING_CUH_

#include <cstdint>

#include "kernels/cuda/attention/sm90a/params.h"
#include "kernels/cuda/primitives/sm80/ldmatrix.cuh"
#include "kernels/cuda/primitives/sm90a/barrier.cuh"
#include "kernels/cuda/primitives/sm90a/bulk_copy.cuh"
#include "kernels/cuda/primitives/sm90a/wgmma.cuh"

// Tiles on their way from global memory to the warpgroups that compute.

namespace theria::cuda::sm90a {

// Starts the copy of a [kRows, kDim] tile from row `row` of one head, to panels kPanelBytes apart.
template <int kRows, int kDim, int kPanelBytes = kRows* kPanelRowBytes>
__device__ __forceinline__ void LoadTile(std::uint32_t destination, const CUtensorMap& map,
                                         std::uint32_t barrier, int batch, int head, int row) {
#pragma unroll
  for (int column = 0; column < kDim; column += kPanelColumns) {
    CopyBox(destination + column / kPanelColumns * kPanelBytes, &map, barrier, column, row, head,
            batch);
  }
}

// The same for a moving tile, the `index`-th tensor of a ring's next buffer.
template <typename Tiling, typename Ring>
__device__ __forceinline__ void LoadMovingTile(const Ring& ring, int index, const CUtensorMap& map,
                                               int batch, int head, int row) {
  LoadTile<Tiling::kColumns, Tiling::kDim, Tiling::kColumnPanelBytes>(
      ring.tile() + index * Tiling::kTensorBytes, map, ring.full(), batch, head, row);
}

// A ring of buffers: kFillers threads fill them, all computing warps empty them, in the same order.
//
// kLanesRead: whether lanes load from the buffers themselves. Then each of them arrives after its
// own loads; otherwise only the tensor cores read, and one lane speaks for its warp. One lane could
// speak for the loads of the others as well, which __syncwarp orders before its arrival, but
// compute-sanitizer does not follow that order, and an arrival of all lanes keeps nobody waiting.
template <int kStages, int kStageBytes, bool kLanesRead, int kFillers = 1>
class Ring {
 public:
  static constexpr int kBarrierBytes = 2 * kStages * 8;

  // `barriers`: shared memory for kBarrierBytes; `tiles`: for kStages * kStageBytes.
  __device__ __forceinline__ Ring(std::uint32_t barriers, std::uint32_t tiles)
      : barriers_(barriers), tiles_(tiles) {}

  // By one thread, before the block's first barrier.
  __device__ __forceinline__ void Init(int computing_warps) const {
    for (int stage = 0; stage < kStages; ++stage) {
      InitBarrier(barriers_ + stage * 8, kFillers);
      InitBarrier(barriers_ + (kStages + stage) * 8, computing_warps * (kLanesRead ? 32 : 1));
    }
  }

  // The filling thread: waits until the next buffer is empty and announces `bytes`; copies to
  // tile() count on full(). Then Advance.
  __device__ __forceinline__ void BeginFill(int bytes) const {
    WaitUntilEmpty();
    ArriveExpecting(full(), bytes);
  }
  __device__ __forceinline__ void WaitUntilEmpty() const {
    WaitForPhase(empty(stage_), phase_ ^ 1);
  }

  // A computing warp: waits until the next buffer is full. Then Advance, in time Release.
  __device__ __forceinline__ void WaitUntilFull() const { WaitForPhase(full(), phase_); }

  // A computing warp no longer reads the buffer of that number, as index() gave it. All lanes call
  // it, their loads and products over.
  __device__ __forceinline__ void Release(int index) const {
    if constexpr (!kLanesRead) __syncwarp();
    if (kLanesRead || threadIdx.x % 32 == 0) Arrive(barriers_ + (kStages + index) * 8);
  }

  __device__ __forceinline__ int index() const { return stage_; }
  __device__ __forceinline__ std::uint32_t tile(int index) const {
    return tiles_ + index * kStageBytes;
  }
  __device__ __forceinline__ std::uint32_t tile() const { return tile(stage_); }
  // The barrier that Release arrives at.
  __device__ __forceinline__ std::uint32_t empty(int index) const {
    return barriers_ + (kStages + index) * 8;
  }
  __device__ __forceinline__ std::uint32_t full() const { return barriers_ + stage_ * 8; }

  __device__ __forceinline__ void Advance() {
    if (++stage_ == kStages) {
      stage_ = 0;
      phase_ ^= 1;
    }
  }

 private:
  std::uint32_t barriers_;
  std::uint32_t tiles_;
  int stage_ = 0;
  std::uint32_t phase_ = 0;
};

// A block's shared memory: the stationary tiles and both rings, see tiling.h.
template <typename Tiling>
struct SharedTiles {
  // Row statistics, which lanes load, lie beside the tiles of scores where rows are keys.
  using ScoreRing = Ring<Tiling::kConfig.score_stages, Tiling::kScoreStageBytes, Tiling::kKeyRows,
                         Tiling::kAddsQBar ? 33 : 1>;
  using ValueRing = Ring<Tiling::kConfig.value_stages, Tiling::kValueStageBytes, false>;

  using RowRing = Ring<Tiling::kRowStages, Tiling::kRowStageBytes, false>;

  RowRing rows;  // the stationary tiles
  ScoreRing scores;
  ValueRing values;
  std::uint32_t work;  // a word for each buffer of `rows`, see tile_queue.cuh

  // Initialises the barriers; all threads of the block take part.
  static __device__ __forceinline__ SharedTiles Make(const void* shared_memory) {
    const std::uint32_t base = (sm80::SharedAddress(shared_memory) + 1023u) & ~1023u;
    constexpr int kScores = RowRing::kBarrierBytes;
    constexpr int kValues = kScores + ScoreRing::kBarrierBytes;
    constexpr int kWork = kValues + ValueRing::kBarrierBytes;
    static_assert(kWork + 4 * Tiling::kRowStages <= 512);
    const SharedTiles tiles = {
        RowRing(base, base + 1024), ScoreRing(base + kScores, base + Tiling::kScoreRingOffset),
        ValueRing(base + kValues, base + Tiling::kValueRingOffset), base + kWork};
    if (threadIdx.x == 0) {
      tiles.rows.Init(Tiling::kConsumers * 4);
      tiles.scores.Init(Tiling::kConsumers * 4);
      tiles.values.Init(Tiling::kConsumers * 4);
      PublishBarriers();
    }
    __syncthreads();
    return tiles;
  }
};

// The calling warp's warpgroup, the same value in all lanes as far as the compiler can tell.
__device__ __forceinline__ int WarpgroupIndex() {
  return __shfl_sync(0xffffffffu, static_cast<int>(threadIdx.x) / 128, 0);
}

// threadIdx.x, read anew: what follows from it takes no registers from one step to the next.
__device__ __forceinline__ unsigned ThreadIndex() {
  unsigned index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

// x, of which the compiler knows nothing: descriptors made from it are made anew in every step, and
// take no registers from one step to the next.
__device__ __forceinline__ std::uint32_t Anew(std::uint32_t x) {
  asm volatile("" : "+r"(x));
  return x;
}

// x, the same in all lanes, where the compiler keeps it in a uniform register.
__device__ __forceinline__ int Uniform(int x) { return __shfl_sync(0xffffffffu, x, 0); }

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_RING_CUH_
