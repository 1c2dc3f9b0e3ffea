#ifndef THERIA_KERNELS_CUDA_ATTENTION_PRODUCTS_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_PRODUCTS_CUH_

#include <cstdint>

// A warp's products of tiles. Accumulators are [kRowTiles][kBlocks][4]: kRowTiles tiles of 16 rows,
// kBlocks blocks of 8 columns, in the layout of mma_half.cuh. Tiles in shared memory have rows of
// kStride elements; `a` and `b` are the shared addresses of the first element used.

namespace theria::cuda {

template <typename Accumulator, int kRowTiles, int kBlocks>
using TileAccumulator = Accumulator[kRowTiles][kBlocks][4];

template <typename Accumulator, int kRowTiles, int kBlocks>
__device__ __forceinline__ void Clear(Accumulator (&c)[kRowTiles][kBlocks][4]) {
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
    for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
      for (int e = 0; e < 4; ++e) c[tile][block][e] = Accumulator(0);
    }
  }
}

// The part of a tile in kSpan blocks of a sum over tiles, from block `from` on: `c` itself, or
// apart where Mma::kSumsTiles. There a tile's part is summed by itself before it joins the sum,
// which then gathers a rounding error for each tile and not for each kDepth rows: at 4096 keys half
// the error. The part's accumulators must fit beside the sum's, hence few blocks at once.
template <typename Mma, int kRowTiles, int kBlocks>
class TilePart {
 public:
  using Accumulator = typename Mma::Accumulator;
  static constexpr int kSpan = (Mma::kSumsTiles && kBlocks > 4) ? 4 : kBlocks;
  static_assert(kBlocks % kSpan == 0);

  __device__ __forceinline__ TilePart(Accumulator (&c)[kRowTiles][kBlocks][4], int from)
      : c_(c), from_(from) {
    if constexpr (Mma::kSumsTiles) Clear(part_);
  }

  __device__ __forceinline__ Accumulator (&operator()(int tile, int block))[4] {
    if constexpr (Mma::kSumsTiles) {
      return part_[tile][block];
    } else {
      return c_[tile][from_ + block];
    }
  }

  // Call once, after the last product.
  __device__ __forceinline__ void Join() {
    if constexpr (Mma::kSumsTiles) {
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
        for (int block = 0; block < kSpan; ++block) {
#pragma unroll
          for (int e = 0; e < 4; ++e) c_[tile][from_ + block][e] += part_[tile][block][e];
        }
      }
    }
  }

 private:
  Accumulator (&c_)[kRowTiles][kBlocks][4];
  int from_;
  Accumulator part_[kRowTiles][Mma::kSumsTiles ? kSpan : 1][4];
};

// c += a b^T over kDim columns: `a` is [16 * kRowTiles, kDim], `b` is [8 * kBlocks, kDim].
template <typename Mma, int kDim, int kStride, int kRowTiles, int kBlocks>
__device__ __forceinline__ void AddRowsByRows(typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4],
                                              std::uint32_t a, std::uint32_t b) {
  constexpr int kBytes = sizeof(typename Mma::Element);
#pragma unroll
  for (int inner = 0; inner < kDim; inner += Mma::kDepth) {
    typename Mma::A left[kRowTiles];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      left[tile] = Mma::template LoadA<kStride>(a + (tile * 16 * kStride + inner) * kBytes);
    }
#pragma unroll
    for (int block = 0; block < kBlocks; block += 2) {
      const typename Mma::B right =
          Mma::template LoadB<kStride>(b + (block * 8 * kStride + inner) * kBytes);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Mma::Multiply(c[tile][block], c[tile][block + 1], left[tile], right);
      }
    }
  }
}

// The fragments of [16 * kRowTiles, kDim] rows, for products with many tiles.
template <typename Mma, int kDim, int kRowTiles>
using RowFragments = typename Mma::A[kDim / Mma::kDepth][kRowTiles];

template <typename Mma, int kStride, int kSteps, int kRowTiles>
__device__ __forceinline__ void LoadRowFragments(typename Mma::A (&rows)[kSteps][kRowTiles],
                                                 std::uint32_t a) {
  constexpr int kBytes = sizeof(typename Mma::Element);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      rows[step][tile] =
          Mma::template LoadA<kStride>(a + (tile * 16 * kStride + step * Mma::kDepth) * kBytes);
    }
  }
}

// c += a b^T, the fragments of a already loaded.
template <typename Mma, int kStride, int kSteps, int kRowTiles, int kBlocks>
__device__ __forceinline__ void AddFragmentsByRows(
    typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4],
    const typename Mma::A (&rows)[kSteps][kRowTiles], std::uint32_t b) {
  constexpr int kBytes = sizeof(typename Mma::Element);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int block = 0; block < kBlocks; block += 2) {
      const typename Mma::B right =
          Mma::template LoadB<kStride>(b + (block * 8 * kStride + step * Mma::kDepth) * kBytes);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Mma::Multiply(c[tile][block], c[tile][block + 1], rows[step][tile], right);
      }
    }
  }
}

// The product and its tangent: c += a b^T, c_dot += a_dot b^T + a b_dot^T. Absent tangents are
// neither read nor multiplied.
template <typename Mma, int kDim, int kStride, bool kHasADot, bool kHasBDot, int kRowTiles,
          int kBlocks>
__device__ __forceinline__ void AddRowsByRowsWithTangent(
    typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4],
    typename Mma::Accumulator (&c_dot)[kRowTiles][kBlocks][4], std::uint32_t a, std::uint32_t b,
    std::uint32_t a_dot, std::uint32_t b_dot) {
  constexpr int kBytes = sizeof(typename Mma::Element);
#pragma unroll
  for (int inner = 0; inner < kDim; inner += Mma::kDepth) {
    typename Mma::A left[kRowTiles], left_dot[kRowTiles];
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
      const int offset = (tile * 16 * kStride + inner) * kBytes;
      left[tile] = Mma::template LoadA<kStride>(a + offset);
      if constexpr (kHasADot) left_dot[tile] = Mma::template LoadA<kStride>(a_dot + offset);
    }
#pragma unroll
    for (int block = 0; block < kBlocks; block += 2) {
      const int offset = (block * 8 * kStride + inner) * kBytes;
      const typename Mma::B right = Mma::template LoadB<kStride>(b + offset);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Mma::Multiply(c[tile][block], c[tile][block + 1], left[tile], right);
        if constexpr (kHasADot) {
          Mma::Multiply(c_dot[tile][block], c_dot[tile][block + 1], left_dot[tile], right);
        }
      }
      if constexpr (kHasBDot) {
        const typename Mma::B right_dot = Mma::template LoadB<kStride>(b_dot + offset);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          Mma::Multiply(c_dot[tile][block], c_dot[tile][block + 1], left[tile], right_dot);
        }
      }
    }
  }
}

// c += p b: `p` are accumulators of [16 * kRowTiles, 8 * kInnerBlocks], `b` is
// [8 * kInnerBlocks, 8 * kBlocks].
template <typename Mma, int kStride, int kRowTiles, int kInnerBlocks, int kBlocks>
__device__ __forceinline__ void AddAccumulatorByTile(
    typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4],
    const typename Mma::Accumulator (&p)[kRowTiles][kInnerBlocks][4], std::uint32_t b) {
  using Part = TilePart<Mma, kRowTiles, kBlocks>;
  constexpr int kBytes = sizeof(typename Mma::Element);
  constexpr int kStep = Mma::kDepth / 8;
#pragma unroll
  for (int from = 0; from < kBlocks; from += Part::kSpan) {
    Part part(c, from);
#pragma unroll
    for (int inner = 0; inner < kInnerBlocks; inner += kStep) {
      typename Mma::A left[kRowTiles];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) left[tile] = Mma::MakeA(&p[tile][inner]);
#pragma unroll
      for (int block = 0; block < Part::kSpan; block += 2) {
        const typename Mma::B right = Mma::template LoadBTransposed<kStride>(
            b + (inner * 8 * kStride + (from + block) * 8) * kBytes);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          Mma::Multiply(part(tile, block), part(tile, block + 1), left[tile], right);
        }
      }
    }
    part.Join();
  }
}

// c += a b, the left fragments already made: `a` is [16 * kRowTiles, kSteps * kDepth].
template <typename Mma, int kStride, int kSteps, int kRowTiles, int kBlocks>
__device__ __forceinline__ void AddFragmentsByTile(
    typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4],
    const typename Mma::A (&a)[kSteps][kRowTiles], std::uint32_t b) {
  static_assert(!Mma::kSumsTiles);
  constexpr int kBytes = sizeof(typename Mma::Element);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
#pragma unroll
    for (int block = 0; block < kBlocks; block += 2) {
      const typename Mma::B right = Mma::template LoadBTransposed<kStride>(
          b + (step * Mma::kDepth * kStride + block * 8) * kBytes);
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        Mma::Multiply(c[tile][block], c[tile][block + 1], a[step][tile], right);
      }
    }
  }
}

// Two products that share their right side: c += p b, c2 += p2 b.
template <typename Mma, int kStride, int kRowTiles, int kInnerBlocks, int kBlocks>
__device__ __forceinline__ void AddAccumulatorsByTile(
    typename Mma::Accumulator (&c)[kRowTiles][kBlocks][4],
    typename Mma::Accumulator (&c2)[kRowTiles][kBlocks][4],
    const typename Mma::Accumulator (&p)[kRowTiles][kInnerBlocks][4],
    const typename Mma::Accumulator (&p2)[kRowTiles][kInnerBlocks][4], std::uint32_t b) {
  using Part = TilePart<Mma, kRowTiles, kBlocks>;
  constexpr int kBytes = sizeof(typename Mma::Element);
  constexpr int kStep = Mma::kDepth / 8;
#pragma unroll
  for (int from = 0; from < kBlocks; from += Part::kSpan) {
    Part part(c, from), part2(c2, from);
#pragma unroll
    for (int inner = 0; inner < kInnerBlocks; inner += kStep) {
      typename Mma::A left[kRowTiles], left2[kRowTiles];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) {
        left[tile] = Mma::MakeA(&p[tile][inner]);
        left2[tile] = Mma::MakeA(&p2[tile][inner]);
      }
#pragma unroll
      for (int block = 0; block < Part::kSpan; block += 2) {
        const typename Mma::B right = Mma::template LoadBTransposed<kStride>(
            b + (inner * 8 * kStride + (from + block) * 8) * kBytes);
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile) {
          Mma::Multiply(part(tile, block), part(tile, block + 1), left[tile], right);
          Mma::Multiply(part2(tile, block), part2(tile, block + 1), left2[tile], right);
        }
      }
    }
    part.Join();
    part2.Join();
  }
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_PRODUCTS_CUH_
