#ifndef THERIA_KERNELS_CUDA_ATTENTION_ONLINE_SOFTMAX_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_ONLINE_SOFTMAX_CUH_

#include "kernels/cuda/attention/block.cuh"
#include "kernels/cuda/attention/exponent.cuh"

// Softmax over rows whose columns arrive tile by tile (M. Milakov and N. Gimelshein, "Online
// normalizer calculation for softmax", 2018): a running maximum, a running sum, and the factor by
// which what was summed before must shrink.

namespace theria::cuda {

template <typename Mma, int kRowTiles, bool kGeneral = false>
class OnlineSoftmax {
 public:
  using Accumulator = typename Mma::Accumulator;

  // `log2_scale`: as for Exponent of exponent.cuh.
  __device__ __forceinline__ explicit OnlineSoftmax(Accumulator log2_scale)
      : log2_scale_(log2_scale) {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum_[tile][half] = -static_cast<Accumulator>(INFINITY);
        sum_[tile][half] = Accumulator(0);
      }
    }
  }

  // Turns a tile of scores into exp(score - maximum). What was summed before must shrink by
  // `factor`; returns whether any factor of the warp is not 1.
  template <int kBlocks>
  __device__ __forceinline__ bool Exponentiate(Accumulator (&s)[kRowTiles][kBlocks][4],
                                               Accumulator (&factor)[kRowTiles][2]) {
    bool grew = false;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Accumulator maximum = s[tile][0][2 * half];
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
          maximum = Larger(maximum, s[tile][block][2 * half]);
          maximum = Larger(maximum, s[tile][block][2 * half + 1]);
        }
        maximum = Larger(maximum_[tile][half], RowMaximum(maximum));
        // A row without any key so far keeps every exponent at -inf.
        const Accumulator base = maximum == -static_cast<Accumulator>(INFINITY)
                                     ? Accumulator(0)
                                     : ShiftOf<kGeneral>(maximum, log2_scale_);
        // Both bases are rounded alike: where the maximum stays the factor is exactly 1. A fused
        // product would leave the rounding error of `base` in the exponent, and one such factor for
        // every tile in the sum.
        factor[tile][half] = Mma::Exp2(ExponentOfShift<kGeneral>(
            ShiftOf<kGeneral>(maximum_[tile][half], log2_scale_), log2_scale_, base));
        grew |= maximum != maximum_[tile][half];
        maximum_[tile][half] = maximum;
        Accumulator sum = Accumulator(0);
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
#pragma unroll
          for (int e = 2 * half; e < 2 * half + 2; ++e) {
            s[tile][block][e] = Mma::Exp2(Exponent<kGeneral>(s[tile][block][e], log2_scale_, base));
            sum += s[tile][block][e];
          }
        }
        before_[tile][half] = RoundedProduct(sum_[tile][half], factor[tile][half]);
        sum_[tile][half] = FusedProduct(sum_[tile][half], factor[tile][half], sum);
      }
    }
    return __any_sync(0xffffffffu, grew);
  }

  // Exponentiate, and rescale(tile, half, factor) for every row; with kLazily only where needed,
  // which pays where there is much to rescale. Returns Outweighs.
  template <bool kLazily, int kBlocks, typename Rescale>
  __device__ __forceinline__ bool Add(Accumulator (&s)[kRowTiles][kBlocks][4],
                                      const Rescale& rescale) {
    Accumulator factor[kRowTiles][2];
    const bool grew = Exponentiate(s, factor);
    if (!grew && kLazily) return false;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) rescale(tile, half, factor[tile][half]);
    }
    return grew && Outweighs(factor);
  }

  // Whether in any row of the warp a tile raised a maximum of large size, `factor` being what
  // Exponentiate gave for the tile. What was summed before may then be far from where the row's
  // weight ends up: a stale centre that keeps 1/256 of the weight costs two digits.
  __device__ __forceinline__ bool Outweighs(const Accumulator (&factor)[kRowTiles][2]) const {
    bool any = false;
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const Accumulator base = ShiftOf<kGeneral>(maximum_[tile][half], log2_scale_);
        any |= factor[tile][half] < Accumulator(1) &&
               (base > kLargestFoldedLse || base < -kLargestFoldedLse);
      }
    }
    return __any_sync(0xffffffffu, any);
  }

  // The lane's part of a row's sum so far.
  __device__ __forceinline__ Accumulator LaneSum(int tile, int half) const {
    return sum_[tile][half];
  }

  // The lane's part of the row's sum before the last tile, rescaled to the present maximum.
  __device__ __forceinline__ Accumulator LaneSumBefore(int tile, int half) const {
    return before_[tile][half];
  }

  // Sums over all columns; call once, after the last Add.
  __device__ __forceinline__ void Finish() {
#pragma unroll
    for (int tile = 0; tile < kRowTiles; ++tile) {
#pragma unroll
      for (int half = 0; half < 2; ++half) sum_[tile][half] = RowSum(sum_[tile][half]);
    }
  }

  // 1 / sum, and 0 for a row without any key.
  __device__ __forceinline__ Accumulator InverseSum(int tile, int half) const {
    const Accumulator sum = sum_[tile][half];
    return sum == Accumulator(0) ? Accumulator(0) : Accumulator(1) / sum;
  }

  // Natural log of the sum of exponentials; -inf for a row without any key.
  __device__ __forceinline__ Accumulator LogSumExp(int tile, int half) const {
    constexpr Accumulator kLn2 = static_cast<Accumulator>(0.69314718055994530942);
    if (sum_[tile][half] == Accumulator(0)) return -static_cast<Accumulator>(INFINITY);
    const Accumulator base = ShiftOf<kGeneral>(maximum_[tile][half], log2_scale_);
    return (kGeneral ? base : base * kLn2) + Mma::Log(sum_[tile][half]);
  }

  // What the gradients rebuild the row's probabilities from.
  __device__ __forceinline__ SoftmaxSum<Accumulator> Sum(int tile, int half) const {
    const Accumulator base = ShiftOf<kGeneral>(maximum_[tile][half], log2_scale_);
    // Not always 1: the base is a rounded product.
    const Accumulator largest =
        Mma::Exp2(Exponent<kGeneral>(maximum_[tile][half], log2_scale_, base));
    const Accumulator sum = sum_[tile][half];
    return {base, sum == largest ? -sum : sum};
  }

 private:
  Accumulator log2_scale_;
  Accumulator maximum_[kRowTiles][2];
  Accumulator sum_[kRowTiles][2];
  Accumulator before_[kRowTiles][2];  // dead, and so not stored, where nobody asks for it
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_ONLINE_SOFTMAX_CUH_
