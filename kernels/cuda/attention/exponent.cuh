#ifndef THERIA_KERNELS_CUDA_ATTENTION_EXPONENT_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_EXPONENT_CUH_

// From a score and the row's shift to the exponent of 2. The forward and every gradient go this way
// with the same numbers, so that a gradient rebuilds bit for bit the probabilities of the forward.
//
// Plain kernels hold raw products: log2_scale is scale * log2 e, a shift is in units of log 2, and
// one multiply-add does both. General kernels hold scores in natural units: log2_scale is log2 e
// and the difference is formed first, because finite masks reach the largest finite number, whose
// multiples overflow.

namespace theria::cuda {

// x * y and x * y + z, rounded as written whatever the compiler would contract.
__device__ __forceinline__ float RoundedProduct(float x, float y) { return __fmul_rn(x, y); }
__device__ __forceinline__ double RoundedProduct(double x, double y) { return __dmul_rn(x, y); }
__device__ __forceinline__ float FusedProduct(float x, float y, float z) {
  return __fmaf_rn(x, y, z);
}
__device__ __forceinline__ double FusedProduct(double x, double y, double z) {
  return __fma_rn(x, y, z);
}

// The shift that makes the exponent of `score` 0.
template <bool kGeneral, typename Accumulator>
__device__ __forceinline__ Accumulator ShiftOf(Accumulator score, Accumulator log2_scale) {
  return kGeneral ? score : RoundedProduct(score, log2_scale);
}

template <bool kGeneral, typename Accumulator>
__device__ __forceinline__ Accumulator Exponent(Accumulator score, Accumulator log2_scale,
                                                Accumulator shift) {
  return kGeneral ? (score - shift) * log2_scale : FusedProduct(score, log2_scale, -shift);
}

// The exponent of a score that is itself the shift `other`.
template <bool kGeneral, typename Accumulator>
__device__ __forceinline__ Accumulator ExponentOfShift(Accumulator other, Accumulator log2_scale,
                                                       Accumulator shift) {
  return kGeneral ? (other - shift) * log2_scale : other - shift;
}

// log2_scale for a kernel of this kind.
template <bool kGeneral, typename Accumulator>
__device__ __forceinline__ Accumulator Log2Scale(Accumulator scale) {
  constexpr Accumulator kLog2E = static_cast<Accumulator>(1.4426950408889634074);
  return kGeneral ? kLog2E : scale * kLog2E;
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_EXPONENT_CUH_
