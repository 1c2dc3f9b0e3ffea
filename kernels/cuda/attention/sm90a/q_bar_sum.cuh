#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_Q_BAR_SUM_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_Q_BAR_SUM_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/params.h"

// The float32 sum of q_bar to which the blocks of a key-stationary kernel add.
//
// A tile of kColumns queries is kConsumers adjacent parts of 64 x kQBarPartColumns elements, one of
// each consumer warpgroup. With two row groups (tiles of 128 queries) the parts lie below each
// other, with one row group side by side. In a part, element e of accumulator block b of thread t
// is at (b * 128 + t) * 4 + e, so that neither the additions nor the shared memory before them need
// a swizzle.

namespace theria::cuda::sm90a {

// Where a warpgroup's part starts in its tile.
template <typename Tiling>
struct QBarPart {
  static constexpr int kRowGroups = Tiling::kColumns / 64;
  static constexpr int kColumnGroups = Tiling::kConsumers / kRowGroups;
  static constexpr int kColumns = Tiling::kQBarPartColumns;
  static constexpr int kElements = 64 * kColumns;
  static_assert(kColumnGroups * kColumns == Tiling::kQBarSumColumns);

  static __device__ __forceinline__ int Row(int part) { return part / kColumnGroups * 64; }
  static __device__ __forceinline__ int Column(int part) { return part % kColumnGroups * kColumns; }
};

// The part of the tile whose first query is `row`.
template <typename Tiling>
__device__ __forceinline__ float* QBarPartOf(const AttentionParams& params, int batch, int head,
                                             int row, int part) {
  const std::int64_t plane = std::int64_t{batch} * params.heads_q + head;
  return params.q_bar_sum + (plane * StatisticsRows(params.seq_q) + row) * Tiling::kQBarSumColumns +
         part * QBarPart<Tiling>::kElements;
}

// q_bar = scale * q_bar_sum, and where it is NaN. A block has the 128 threads of one part.
template <typename Tiling>
__global__ void __launch_bounds__(128)
    WriteQBarKernel(const __grid_constant__ AttentionParams params) {
  using Part = QBarPart<Tiling>;
  using Element = typename Tiling::Element;
  const int tiles = static_cast<int>(StatisticsRows(params.seq_q) / Tiling::kColumns);
  unsigned index = blockIdx.x;
  const int part = index % Tiling::kConsumers;
  index /= Tiling::kConsumers;
  const int row = static_cast<int>(index % tiles) * Tiling::kColumns;
  index /= tiles;
  const int head = index % params.heads_q;
  const int batch = index / params.heads_q;

  // A thread takes the elements of four adjacent threads' blocks: eight columns of two rows.
  constexpr int kColumnBlocks = Part::kColumns / 8;
  const auto* sums =
      reinterpret_cast<const float4*>(QBarPartOf<Tiling>(params, batch, head, row, part));
  const float scale = static_cast<float>(params.scale);
  __shared__ std::uint32_t seen[64 / kNanGroupRows];  // whether there is NaN in these rows
  if (threadIdx.x < 64 / kNanGroupRows) seen[threadIdx.x] = 0;
  __syncthreads();
#pragma unroll
  for (int unit = threadIdx.x; unit < kColumnBlocks * 32; unit += 128) {
    const int block = unit % kColumnBlocks;
    const int group = unit / kColumnBlocks;  // of four threads
    std::uint32_t words[2][4];               // of two elements each
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
      const float4 x = sums[block * 128 + group * 4 + lane];
      if (isnan(x.x) || isnan(x.y) || isnan(x.z) || isnan(x.w)) seen[group / 8] = 1;
      Tiling::Mma::Store2(reinterpret_cast<Element*>(&words[0][lane]), x.x * scale, x.y * scale);
      Tiling::Mma::Store2(reinterpret_cast<Element*>(&words[1][lane]), x.z * scale, x.w * scale);
    }
    const int column = Part::Column(part) + block * 8;
    if (column >= params.head_dim) continue;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int at = row + Part::Row(part) + group / 8 * 16 + group % 8 + half * 8;
      if (at >= params.seq_q) continue;
      *reinterpret_cast<uint4*>(RowPointer<Element>(params.q_bar, batch, head, at) + column) =
          make_uint4(words[half][0], words[half][1], words[half][2], words[half][3]);
    }
  }
  __syncthreads();
  const int at = row + Part::Row(part) + static_cast<int>(threadIdx.x) * kNanGroupRows;
  if (params.q_bar_nan_flags == nullptr || threadIdx.x >= 64 / kNanGroupRows ||
      at >= params.seq_q) {
    return;
  }
  const std::int64_t plane = std::int64_t{batch} * params.heads_q + head;
  auto* bytes = reinterpret_cast<std::uint8_t*>(
      params.q_bar_nan_flags + plane * NanGroups(params.seq_q) + at / kNanGroupRows);
  const int slice = part % Part::kColumnGroups;
  bytes[slice] = seen[threadIdx.x] != 0;
  for (int unused = slice == 0 ? Part::kColumnGroups : kNanSlices; unused < kNanSlices; ++unused) {
    bytes[unused] = 0;
  }
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_Q_BAR_SUM_CUH_
