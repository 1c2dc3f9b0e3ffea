#ifndef THERIA_KERNELS_CUDA_ATTENTION_SCORE_TILE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SCORE_TILE_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cfloat>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/attention/exponent.cuh"
#include "kernels/cuda/attention/params.h"

// ScoreMod on a warp's tile of scores. A tile's rows are queries and its columns keys, or the other
// way round where kKeyRows. `general` kernels know masks and dropout; the others causal and window
// only, and leave the scale to the exponential.

namespace theria::cuda {

// Keys that take part in the rows [first, last] of queries, and whether all of a tile's keys do.
struct KeySpan {
  int begin, end;            // of the keys that take part in some row
  int full_begin, full_end;  // of the keys that take part in every row
};

constexpr int kIntUnbounded = 1 << 30;

__device__ __forceinline__ int WindowSide(std::int64_t side) {
  return side < kIntUnbounded ? static_cast<int>(side) : kIntUnbounded;
}

__device__ __forceinline__ KeySpan KeysOfQueries(const AttentionParams& params, int first,
                                                 int last) {
  const int left = WindowSide(params.score_mod.window_left);
  const int right = WindowSide(params.score_mod.window_right);
  return {max(first - left, 0), min(last + right + 1, params.seq_kv), max(last - left, 0),
          min(first + right + 1, params.seq_kv)};
}

// The same with queries and keys exchanged: the queries in which the keys [first, last] take part.
__device__ __forceinline__ KeySpan QueriesOfKeys(const AttentionParams& params, int first,
                                                 int last) {
  const int left = WindowSide(params.score_mod.window_left);
  const int right = WindowSide(params.score_mod.window_right);
  return {max(first - right, 0), min(last + left + 1, params.seq_q), max(last - right, 0),
          min(first + left + 1, params.seq_q)};
}

// Where a warp's tile lies.
struct TilePosition {
  int batch, head;  // head of queries
  int row, column;  // of the tile's first element, as the tile counts them
};

// Element `index` of an option's tensor: a number, or what a boolean mask adds.
template <typename Accumulator>
__device__ __forceinline__ Accumulator OptionValue(const void* data, DType dtype,
                                                   std::int64_t index) {
  switch (dtype) {
    case DType::kFloat64: {
      // A finite value stays finite in float32 too: it does not forbid its key.
      constexpr double kMost = std::is_same_v<Accumulator, float> ? FLT_MAX : DBL_MAX;
      const double value = static_cast<const double*>(data)[index];
      return static_cast<Accumulator>(isfinite(value) ? fmin(fmax(value, -kMost), kMost) : value);
    }
    case DType::kFloat32:
      return static_cast<Accumulator>(static_cast<const float*>(data)[index]);
    case DType::kFloat16:
      return static_cast<Accumulator>(__half2float(static_cast<const __half*>(data)[index]));
    case DType::kBFloat16:
      return static_cast<Accumulator>(
          __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]));
    case DType::kBool:
      return static_cast<const std::uint8_t*>(data)[index] != 0
                 ? Accumulator(0)
                 : -static_cast<Accumulator>(INFINITY);
    case DType::kInt32:
      break;
  }
  return Accumulator(0);
}

template <typename Accumulator>
__device__ __forceinline__ Accumulator MaskValue(const ScoreMod& mod, std::int64_t index) {
  return OptionValue<Accumulator>(mod.mask, mod.mask_dtype, index);
}

template <typename Real>
__device__ void StoreFloating(void* data, DType dtype, std::int64_t index, Real value) {
  switch (dtype) {
    case DType::kFloat64:
      static_cast<double*>(data)[index] = static_cast<double>(value);
      break;
    case DType::kFloat32:
      static_cast<float*>(data)[index] = static_cast<float>(value);
      break;
    case DType::kFloat16:
      static_cast<__half*>(data)[index] = __float2half(static_cast<float>(value));
      break;
    case DType::kBFloat16:
      static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16(static_cast<float>(value));
      break;
    default:
      break;
  }
}

// Whether key j takes part in row i of a head.
template <typename Real>
__device__ __forceinline__ bool IsVisible(const ScoreMod& mod, std::int64_t batch,
                                          std::int64_t head, std::int64_t i, std::int64_t j) {
  const KeyRange keys = mod.Keys(batch, i);
  if (j < keys.begin || j >= keys.end) return false;
  if (mod.mask == nullptr) return true;
  return MaskValue<Real>(mod, batch * mod.mask_strides[0] + head * mod.mask_strides[1] +
                                  i * mod.mask_strides[2] + j * mod.mask_strides[3]) !=
         -static_cast<Real>(INFINITY);
}

// Calls visit(tile, block, element) for a thread's elements of a tile.
template <int kRowTiles, int kBlocks, typename Visit>
__device__ __forceinline__ void ForEachElement(const Visit& visit) {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) visit(tile, block, e);
    }
  }
}

// The same with the element's row and column.
template <int kRowTiles, int kBlocks, typename Visit>
__device__ __forceinline__ void ForEachIndex(const TilePosition& position, const Visit& visit) {
  const int lane = threadIdx.x % 32;
  ForEachElement<kRowTiles, kBlocks>([&](int tile, int block, int e) {
    visit(tile, block, e, position.row + tile * 16 + lane / 4 + e / 2 * 8,
          position.column + block * 8 + lane % 4 * 2 + e % 2);
  });
}

// Calls visit(accumulator element, row, column) for a thread's elements of a tile.
template <typename Accumulator, int kRowTiles, int kBlocks, typename Visit>
__device__ __forceinline__ void ForEach(Accumulator (&c)[kRowTiles][kBlocks][4],
                                        const TilePosition& position, const Visit& visit) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        visit(c[tile][block][e], position.row + tile * 16 + lane / 4 + e / 2 * 8,
              position.column + block * 8 + lane % 4 * 2 + e % 2);
      }
    }
  }
}

// Raw products become scores: -inf where a key takes no part. General kernels get scores in natural
// units, scaled and masked; the others keep the raw product (their scale is positive). `whole`: the
// tile lies within seq_q, seq_kv, causal and window limits.
template <bool kGeneral, bool kKeyRows, typename Accumulator, int kRowTiles, int kBlocks>
__device__ __forceinline__ void ModifyScores(const AttentionParams& params,
                                             const TilePosition& position, bool whole,
                                             Accumulator (&s)[kRowTiles][kBlocks][4]) {
  const int left = WindowSide(params.score_mod.window_left);
  const int right = WindowSide(params.score_mod.window_right);
  const auto takes_part = [&](int i, int j) {
    return i < params.seq_q && j < params.seq_kv && j >= i - left && j <= i + right;
  };
  constexpr Accumulator kNone = -static_cast<Accumulator>(INFINITY);
  if constexpr (kGeneral) {
    const ScoreMod& mod = params.score_mod;
    const Accumulator scale = static_cast<Accumulator>(params.scale);
    const std::int64_t plane =
        position.batch * mod.mask_strides[0] + position.head * mod.mask_strides[1];
    ForEach(s, position, [&](Accumulator& score, int row, int column) {
      const int i = kKeyRows ? column : row;
      const int j = kKeyRows ? row : column;
      if (!whole && !takes_part(i, j)) {
        score = kNone;
        return;
      }
      if (mod.mask == nullptr) {
        score = RoundedProduct(score, scale);
        return;
      }
      const Accumulator value =
          MaskValue<Accumulator>(mod, plane + i * mod.mask_strides[2] + j * mod.mask_strides[3]);
      score = value == kNone ? kNone : FusedProduct(score, scale, value);
    });
  } else {
    if (whole) return;
    ForEach(s, position, [&](Accumulator& score, int row, int column) {
      if (!takes_part(kKeyRows ? column : row, kKeyRows ? row : column)) score = kNone;
    });
  }
}

// Zeroes what stands beside scores of `none`. Where rows that take no part hold large numbers,
// their products may have overflowed, and 0 * inf is NaN.
template <typename Accumulator, int kRowTiles, int kBlocks, typename... Products>
__device__ __forceinline__ void ClearBeside(Accumulator none,
                                            const Accumulator (&s)[kRowTiles][kBlocks][4],
                                            Products&... products) {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        if (s[tile][block][e] == none) ((products[tile][block][e] = Accumulator(0)), ...);
      }
    }
  }
}

// Which of a thread's elements of a tile dropout keeps.
template <int kRowTiles, int kBlocks>
class KeptElements {
 public:
  // REQUIRES: dropout is enabled; the tile's first row and column are even.
  //
  // A Philox call serves a 2 x 2 block of scores: lanes l and l ^ 4 hold its rows and share two
  // calls.
  template <bool kKeyRows>
  __device__ __forceinline__ void Draw(const AttentionParams& params,
                                       const TilePosition& position) {
    const DropoutMod& dropout = params.score_mod.dropout;
    const int lane = threadIdx.x % 32;
    const bool odd = lane / 4 % 2 != 0;
    const std::uint64_t plane =
        static_cast<std::uint64_t>(position.batch) * params.heads_q + position.head;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
        const int row = position.row + tile * 16 + lane / 4 + (odd ? 8 : 0);
        const int column = position.column + block * 8 + lane % 4 * 2;
        const PhiloxCounter draws =
            kKeyRows ? dropout.Block(plane, column, row) : dropout.Block(plane, row, column);
        // Of the block: elements (row & 1, column & 1) in the tile's own order.
        const std::uint32_t even_row[2] = {draws.x, kKeyRows ? draws.z : draws.y};
        const std::uint32_t odd_row[2] = {kKeyRows ? draws.y : draws.z, draws.w};
        std::uint32_t bits = 0;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const std::uint32_t own = odd ? odd_row[e] : even_row[e];
          const std::uint32_t other =
              __shfl_xor_sync(0xffffffffu, odd ? even_row[e] : odd_row[e], 4);
          const std::uint32_t upper = odd ? other : own;
          const std::uint32_t lower = odd ? own : other;
          bits |= static_cast<std::uint32_t>(upper >= dropout.drop_below) << e;
          bits |= static_cast<std::uint32_t>(lower >= dropout.drop_below) << (e + 2);
        }
        const int at = (tile * kBlocks + block) * 4;
        if (at % 32 == 0) words_[at / 32] = 0;
        words_[at / 32] |= bits << at % 32;
      }
    }
  }

  // Zeroes what is dropped.
  template <typename Accumulator>
  __device__ __forceinline__ void Apply(Accumulator (&x)[kRowTiles][kBlocks][4]) const {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (!Keeps(tile, block, e)) x[tile][block][e] = Accumulator(0);
        }
      }
    }
  }

  __device__ __forceinline__ bool Keeps(int tile, int block, int e) const {
    const int at = (tile * kBlocks + block) * 4 + e;
    return (words_[at / 32] >> at % 32 & 1u) != 0;
  }

 private:
  std::uint32_t words_[(kRowTiles * kBlocks * 4 + 31) / 32];
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SCORE_TILE_CUH_
