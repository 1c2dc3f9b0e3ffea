#ifndef THERIA_KERNELS_CUDA_BIAS_BIAS_KERNEL_CUH_
#define THERIA_KERNELS_CUDA_BIAS_BIAS_KERNEL_CUH_

#include <cstdint>

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/extended_scores.cuh"
#include "kernels/cuda/attention/products.cuh"
#include "kernels/cuda/attention/score_derivatives.cuh"
#include "kernels/cuda/attention/statistics_tile.cuh"
#include "kernels/cuda/bias/bias_gradient.h"

namespace theria::cuda {

// Tiles of 64 queries. All head dimensions: a chunk of columns at a time, in the order in which the
// forward sums them, so that P has its bits.
template <typename MmaT, bool kTangents>
struct BiasTiling {
  using Mma = MmaT;
  using Element = typename Mma::Element;
  using Accumulator = typename Mma::Accumulator;
  static constexpr bool kGeneral = true;
  static constexpr bool kExtended = true;
  static constexpr int kThreads = 128;
  static constexpr int kWarpRows = 16;
  static constexpr int kRows = kThreads / 32 * kWarpRows;
  static constexpr int kColumns = (sizeof(Element) == 8 ? 32 : 64) / (kTangents ? 2 : 1);
  static constexpr int kColumnBlocks = kColumns / 8;
  static constexpr int kTileDim = 128 / sizeof(Element);
  static constexpr int kStride = kTileDim + Mma::kPadding;
  static constexpr int kRowTileBytes = kRows * kStride * sizeof(Element);
  static constexpr int kColumnTileBytes = kColumns * kStride * sizeof(Element);
  static constexpr int kOperandBytes = (kTangents ? 2 : 1) * (kRowTileBytes + kColumnTileBytes);
  static constexpr int kSumStride = kColumns + 1;
  static constexpr int kSumBytes = kRows * kSumStride * sizeof(Accumulator);
  static constexpr int kSharedBytes = kOperandBytes > kSumBytes ? kOperandBytes : kSumBytes;
  static_assert(kSharedBytes <= 48 * 1024);
};

// What a launch adds to BiasGradients: the blocks that share a tile, and where they leave their
// parts, [splits, outputs, elements of the bias] in the accumulator's type; null: write the
// results.
struct BiasLaunch {
  AttentionParams attention;
  BiasGradients gradients;
  std::int32_t splits;
  void* parts;
};

// Tiles of the bias along its last two dimensions.
struct BiasTiles {
  std::int32_t rows, columns;
};
template <typename Tiling>
__host__ __device__ constexpr BiasTiles TilesOf(const BiasGradients& gradients) {
  return {(gradients.extents[2] + Tiling::kRows - 1) / Tiling::kRows,
          (gradients.extents[3] + Tiling::kColumns - 1) / Tiling::kColumns};
}

// Tiles of scores that share a tile of the bias, by what it broadcasts over.
struct SharedTiles {
  std::int32_t batches, heads, rows, columns;
  __host__ __device__ std::int64_t count() const {
    return std::int64_t{batches} * heads * rows * columns;
  }
};
template <typename Tiling>
__host__ __device__ constexpr SharedTiles SharedTilesOf(const AttentionParams& params,
                                                        const BiasGradients& gradients) {
  return {
      gradients.extents[0] == 1 ? params.batch : 1, gradients.extents[1] == 1 ? params.heads_q : 1,
      gradients.extents[2] == 1 ? (params.seq_q + Tiling::kRows - 1) / Tiling::kRows : 1,
      gradients.extents[3] == 1 ? (params.seq_kv + Tiling::kColumns - 1) / Tiling::kColumns : 1};
}

// The products of rows of queries and of keys, and their tangents, over all columns.
template <typename Tiling, bool kTangents, typename Accumulator, int kBlocks>
__device__ void MultiplyChunks(std::uint32_t shared, const InputRows& queries,
                               const InputRows& queries_dot, const InputRows& keys,
                               const InputRows& keys_dot, const TilePosition& tile, int head_kv,
                               int seq_q, int seq_kv, int columns, Accumulator (&c)[1][kBlocks][4],
                               Accumulator (&c_dot)[1][kBlocks][4]) {
  using Mma = typename Tiling::Mma;
  const std::uint32_t a = shared;
  const std::uint32_t b = a + Tiling::kRowTileBytes;
  const std::uint32_t a_dot = b + Tiling::kColumnTileBytes;
  const std::uint32_t b_dot = a_dot + Tiling::kRowTileBytes;
  const bool has_a_dot = kTangents && queries_dot.data != nullptr;
  const bool has_b_dot = kTangents && keys_dot.data != nullptr;
  const std::uint32_t warp =
      threadIdx.x / 32 * Tiling::kWarpRows * Tiling::kStride * sizeof(typename Tiling::Element);
#pragma unroll 1
  for (int from = 0; from < columns; from += Tiling::kTileDim) {
    __syncthreads();
    const auto load_rows = [&](std::uint32_t to, const InputRows& rows) {
      LoadTile<Tiling, Tiling::kRows>(to, rows, tile.batch, tile.head, tile.row, seq_q, columns,
                                      from);
    };
    const auto load_columns = [&](std::uint32_t to, const InputRows& rows) {
      LoadTile<Tiling, Tiling::kColumns>(to, rows, tile.batch, head_kv, tile.column, seq_kv,
                                         columns, from);
    };
    load_rows(a, queries);
    load_columns(b, keys);
    if (has_a_dot) load_rows(a_dot, queries_dot);
    if (has_b_dot) load_columns(b_dot, keys_dot);
    sm80::CommitCopies();
    sm80::WaitForCopies<0>();
    __syncthreads();
    AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(c, a + warp, b);
    if constexpr (kTangents) {
      if (has_a_dot) {
        AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(c_dot, a_dot + warp, b);
      }
      if (has_b_dot) {
        AddRowsByRows<Mma, Tiling::kTileDim, Tiling::kStride>(c_dot, a + warp, b_dot);
      }
    }
  }
}

// Adds S_bar of one tile of scores to `sum`, and S_bar_dot to `sum_dot`.
template <typename Tiling, bool kTangents, typename Accumulator, int kBlocks>
__device__ void AddScoreTile(const AttentionParams& params, std::uint32_t shared,
                             const TilePosition& tile, Accumulator (&sum)[1][kBlocks][4],
                             Accumulator (&sum_dot)[1][kBlocks][4]) {
  using Mma = typename Tiling::Mma;
  const int last = min(tile.row + Tiling::kRows, params.seq_q) - 1;
  const KeySpan keys = KeysOfTile<Tiling>(params, tile.batch, tile.row, last);
  if (tile.column >= keys.end || tile.column + Tiling::kColumns <= keys.begin) return;
  const int head_kv = tile.head / params.group;
  const TilePosition position = {tile.batch, tile.head,
                                 tile.row + static_cast<int>(threadIdx.x) / 32 * Tiling::kWarpRows,
                                 tile.column};
  const bool whole = tile.row + Tiling::kRows <= params.seq_q && tile.column >= keys.full_begin &&
                     tile.column + Tiling::kColumns <= keys.full_end;

  Accumulator s[1][kBlocks][4], s_dot[1][kBlocks][4];
  Accumulator p_bar[1][kBlocks][4], p_bar_dot[1][kBlocks][4];
  Clear(s);
  Clear(s_dot);
  Clear(p_bar);
  Clear(p_bar_dot);
  MultiplyChunks<Tiling, kTangents>(shared, params.q, params.q_dot, params.k, params.k_dot, tile,
                                    head_kv, params.seq_q, params.seq_kv, params.head_dim, s,
                                    s_dot);
  MultiplyChunks<Tiling, kTangents>(shared, params.o_bar, params.o_bar_dot, params.v, params.v_dot,
                                    tile, head_kv, params.seq_q, params.seq_kv, params.head_dim_v,
                                    p_bar, p_bar_dot);
  CapTile<Tiling, 1, kBlocks> cap;
  MakeScores<Tiling, false>(params, position, whole, s, cap);
  if constexpr (kTangents) MakeTangents<Tiling, false>(params, position, s, s_dot, cap);
  if (params.score_mod.dropout.enabled()) {
    KeptElements<1, kBlocks> kept;
    kept.template Draw<false>(params, position);
    kept.Apply(p_bar);
    if constexpr (kTangents) kept.Apply(p_bar_dot);
  }
  const auto keep_scale = static_cast<Accumulator>(params.score_mod.dropout.keep_scale);
  const auto log2_scale = Log2Scale<true>(static_cast<Accumulator>(params.scale));
  RowStatistics<Accumulator> statistics[1][2];
  ReadRowStatistics(params, tile.batch, tile.head, position.row, statistics);
  Accumulator inverse_sums[1][2];
  ReadInverseSums(params, tile.batch, tile.head, position.row, inverse_sums);
  ForEachElement<1, kBlocks>([&](int row_tile, int block, int e) {
    // A forbidden pair contributes nothing, whatever is NaN in its row.
    if (s[row_tile][block][e] == -static_cast<Accumulator>(INFINITY)) return;
    const Accumulator factor = FactorOfDerivatives(inverse_sums[row_tile][e / 2]);
    const auto score = Differentiate<Mma, true>(
        s[row_tile][block][e], s_dot[row_tile][block][e], p_bar[row_tile][block][e] * keep_scale,
        p_bar_dot[row_tile][block][e] * keep_scale, log2_scale, Accumulator(1),
        statistics[row_tile][e / 2]);
    sum[row_tile][block][e] += score.s_bar * factor;
    if constexpr (kTangents) sum_dot[row_tile][block][e] += score.s_bar_dot * factor;
  });
}

// Sums a block's tile over the rows and columns that the bias broadcasts over, and writes it.
template <typename Tiling, typename Accumulator, int kBlocks>
__device__ void WriteSum(const BiasLaunch& launch, Accumulator* shared, void* to,
                         const std::int64_t (&strides)[4], const std::int32_t (&at)[4], int split,
                         int output, int outputs, const Accumulator (&sum)[1][kBlocks][4]) {
  __syncthreads();
  const TilePosition origin = {0, 0, static_cast<int>(threadIdx.x) / 32 * Tiling::kWarpRows, 0};
  ForEachIndex<1, kBlocks>(origin, [&](int tile, int block, int e, int row, int column) {
    shared[row * Tiling::kSumStride + column] = sum[tile][block][e];
  });
  __syncthreads();
  const std::int32_t(&extents)[4] = launch.gradients.extents;
  const int rows = extents[2] == 1 ? 1 : min(Tiling::kRows, extents[2] - at[2]);
  const int columns = extents[3] == 1 ? 1 : min(Tiling::kColumns, extents[3] - at[3]);
  const int rows_summed = extents[2] == 1 ? Tiling::kRows : 1;
  const int columns_summed = extents[3] == 1 ? Tiling::kColumns : 1;
  for (int element = threadIdx.x; element < rows * columns; element += Tiling::kThreads) {
    const int row = element / columns;
    const int column = element % columns;
    Accumulator total = 0;
    for (int i = row; i < row + rows_summed; ++i) {
      for (int j = column; j < column + columns_summed; ++j) {
        total += shared[i * Tiling::kSumStride + j];
      }
    }
    const std::int64_t index[4] = {at[0], at[1], at[2] + row, at[3] + column};
    if (launch.parts == nullptr) {
      std::int64_t offset = 0;
      for (int axis = 0; axis < 4; ++axis) offset += index[axis] * strides[axis];
      StoreFloating(to, launch.gradients.dtype, offset, total);
    } else {
      std::int64_t offset = std::int64_t{split} * outputs + output;
      for (int axis = 0; axis < 4; ++axis) offset = offset * extents[axis] + index[axis];
      static_cast<Accumulator*>(launch.parts)[offset] = total;
    }
  }
}

template <typename Mma, bool kTangents>
__global__ void __launch_bounds__(128)
    BiasGradientKernel(const __grid_constant__ BiasLaunch launch) {
  using Tiling = BiasTiling<Mma, kTangents>;
  using Accumulator = typename Mma::Accumulator;
  __shared__ __align__(16) unsigned char shared_memory[Tiling::kSharedBytes];
  const AttentionParams& params = launch.attention;
  const BiasGradients& gradients = launch.gradients;
  const BiasTiles tiles = TilesOf<Tiling>(gradients);
  const SharedTiles shared = SharedTilesOf<Tiling>(params, gradients);

  unsigned block = blockIdx.x;
  const int split = static_cast<int>(block % launch.splits);
  block /= launch.splits;
  std::int32_t at[4];
  at[3] = static_cast<int>(block % tiles.columns) * Tiling::kColumns;
  block /= tiles.columns;
  at[2] = static_cast<int>(block % tiles.rows) * Tiling::kRows;
  block /= tiles.rows;
  at[1] = static_cast<int>(block % gradients.extents[1]);
  at[0] = static_cast<int>(block / gradients.extents[1]);

  Accumulator sum[1][Tiling::kColumnBlocks][4];
  Accumulator sum_dot[1][Tiling::kColumnBlocks][4];
  Clear(sum);
  Clear(sum_dot);
  const std::int64_t first = shared.count() * split / launch.splits;
  const std::int64_t end = shared.count() * (split + 1) / launch.splits;
#pragma unroll 1
  for (std::int64_t index = first; index < end; ++index) {
    std::int64_t rest = index;
    TilePosition tile = {at[0], at[1], at[2], at[3]};
    tile.column += static_cast<int>(rest % shared.columns) * Tiling::kColumns;
    rest /= shared.columns;
    tile.row += static_cast<int>(rest % shared.rows) * Tiling::kRows;
    rest /= shared.rows;
    tile.head += static_cast<int>(rest % shared.heads);
    tile.batch += static_cast<int>(rest / shared.heads);
    AddScoreTile<Tiling, kTangents>(params, sm80::SharedAddress(shared_memory), tile, sum, sum_dot);
  }
  auto* const summed = reinterpret_cast<Accumulator*>(shared_memory);
  const int outputs = gradients.outputs();
  if (gradients.bias_bar != nullptr) {
    WriteSum<Tiling>(launch, summed, gradients.bias_bar, gradients.bias_bar_strides, at, split, 0,
                     outputs, sum);
  }
  if constexpr (kTangents) {
    if (gradients.bias_bar_dot != nullptr) {
      WriteSum<Tiling>(launch, summed, gradients.bias_bar_dot, gradients.bias_bar_dot_strides, at,
                       split, outputs - 1, outputs, sum_dot);
    }
  }
}

constexpr int kAddThreads = 256;

// Adds up the parts of all blocks that share a tile.
template <typename Accumulator>
__global__ void __launch_bounds__(kAddThreads)
    AddBiasPartsKernel(const __grid_constant__ BiasLaunch launch) {
  const BiasGradients& gradients = launch.gradients;
  const std::int32_t(&extents)[4] = gradients.extents;
  const std::int64_t elements =
      std::int64_t{extents[0]} * extents[1] * extents[2] * std::int64_t{extents[3]};
  const int outputs = gradients.outputs();
  const std::int64_t at = std::int64_t{blockIdx.x} * kAddThreads + threadIdx.x;
  if (at >= elements * outputs) return;
  Accumulator total = 0;
  for (int split = 0; split < launch.splits; ++split) {
    total += static_cast<const Accumulator*>(launch.parts)[split * outputs * elements + at];
  }
  const bool is_primal = gradients.bias_bar != nullptr && at < elements;
  const std::int64_t(&strides)[4] =
      is_primal ? gradients.bias_bar_strides : gradients.bias_bar_dot_strides;
  std::int64_t rest = at % elements;
  std::int64_t offset = 0;
  for (int axis = 3; axis >= 0; --axis) {
    offset += rest % extents[axis] * strides[axis];
    rest /= extents[axis];
  }
  StoreFloating(is_primal ? gradients.bias_bar : gradients.bias_bar_dot, gradients.dtype, offset,
                total);
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_BIAS_BIAS_KERNEL_CUH_
