#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_TF32_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_TF32_CUH_

#include <cstdint>

#include "kernels/cuda/primitives/sm80/ldmatrix.cuh"

// One warp's matrix products of float32 elements on the tensor cores (mma.sync m16n8k8); the
// members are those that mma_half.cuh describes.
//
// MmaTf32x3 keeps float32's accuracy: each operand is the sum of two TF32 numbers (to 2^-24), the
// three products that matter are formed, and sums over the inner dimension are rounded to nearest
// outside the tensor core, which truncates (H. Ootomo and R. Yokota, "Recovering single precision
// accuracy from Tensor Cores while surpassing the FP32 theoretical peak performance", 2022).

namespace theria::cuda::sm80 {

namespace tf32 {

__device__ __forceinline__ std::uint32_t Round(float x) {
  std::uint32_t y;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
  return y;
}

// A TF32 operand, and its rest where kSplit.
template <int kCount, bool kSplit>
struct Fragment {
  std::uint32_t high[kCount];
  std::uint32_t low[kSplit ? kCount : 1];

  __device__ __forceinline__ void Set(int index, float x) {
    high[index] = Round(x);
    if constexpr (kSplit) low[index] = Round(x - __uint_as_float(high[index]));
  }
};

__device__ __forceinline__ void MultiplyBlock(float (&c)[4], const std::uint32_t (&a)[4],
                                              std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace tf32

template <bool kSplit, bool kTransposed = false>
struct MmaTf32Base {
  using Element = float;
  using Accumulator = float;
  static constexpr int kDepth = 8;
  static constexpr int kPadding = 4;
  static constexpr bool kSumsTiles = kSplit;
  using Transposed = MmaTf32Base<kSplit, !kTransposed>;

  using A = tf32::Fragment<4, kSplit>;
  using B = tf32::Fragment<4, kSplit>;

  template <int kStride>
  static __device__ __forceinline__ A LoadA(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    std::uint32_t x[4];
    LoadMatrix4(address + ((lane & 15) * kStride + (lane >> 4) * 4) * 4, x);
    return Split(x);
  }

  template <int kStride>
  static __device__ __forceinline__ B LoadB(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    std::uint32_t x[4];
    LoadMatrix4(address + (((lane & 7) + (lane >> 4) * 8) * kStride + (lane >> 3 & 1) * 4) * 4, x);
    return Split(x);
  }

  // Inner indices t and t + 4 stand for rows 2t and 2t + 1 of the tile, as MakeA has them.
  template <int kStride>
  static __device__ __forceinline__ B LoadBTransposed(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    const std::uint32_t at = address + (lane % 4 * 2 * kStride + lane / 4) * 4;
    B b;
    b.Set(0, LoadShared(at, 0.0f));
    b.Set(1, LoadShared(at + kStride * 4, 0.0f));
    b.Set(2, LoadShared(at + 32, 0.0f));
    b.Set(3, LoadShared(at + kStride * 4 + 32, 0.0f));
    return b;
  }

  static __device__ __forceinline__ A MakeA(const float (*blocks)[4]) {
    A a;
    a.Set(0, blocks[0][0]);
    a.Set(1, blocks[0][2]);
    a.Set(2, blocks[0][1]);
    a.Set(3, blocks[0][3]);
    return a;
  }

  static __device__ __forceinline__ void Multiply(float (&left)[4], float (&right)[4], const A& a,
                                                  const B& b) {
    Block(left, a, b, 0);
    Block(right, a, b, 2);
  }

  static __device__ __forceinline__ float Exp2(float x) {
    if constexpr (kSplit) return exp2f(x);
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static __device__ __forceinline__ float Log(float x) { return logf(x); }

  static __device__ __forceinline__ void Store2(float* destination, float x, float y) {
    *reinterpret_cast<float2*>(destination) = make_float2(x, y);
  }

 private:
  static __device__ __forceinline__ A Split(const std::uint32_t (&x)[4]) {
    A a;
#pragma unroll
    for (int index = 0; index < 4; ++index) a.Set(index, __uint_as_float(x[index]));
    return a;
  }

  static __device__ __forceinline__ void Block(float (&c)[4], const A& a, const B& b, int n) {
    if constexpr (kSplit) {
      float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
      if constexpr (!kTransposed) tf32::MultiplyBlock(sum, a.low, b.high[n], b.high[n + 1]);
      tf32::MultiplyBlock(sum, a.high, b.low[n], b.low[n + 1]);
      if constexpr (kTransposed) tf32::MultiplyBlock(sum, a.low, b.high[n], b.high[n + 1]);
      tf32::MultiplyBlock(sum, a.high, b.high[n], b.high[n + 1]);
#pragma unroll
      for (int index = 0; index < 4; ++index) c[index] += sum[index];
    } else {
      tf32::MultiplyBlock(c, a.high, b.high[n], b.high[n + 1]);
    }
  }
};

using MmaTf32 = MmaTf32Base<false>;
using MmaTf32x3 = MmaTf32Base<true>;

}  // namespace theria::cuda::sm80

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_TF32_CUH_
