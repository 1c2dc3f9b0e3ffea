#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_HALF_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_HALF_CUH_

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/cuda/primitives/sm80/ldmatrix.cuh"

// One warp's matrix products in float16 and bfloat16 with float32 sums (mma.sync m16n8k16).
//
// Every arithmetic of this folder (MmaHalf, MmaTf32, MmaTf32x3, MmaFloat64) has the same members,
// so that a kernel is written once:
//   Element, Accumulator      in memory; in sums
//   kDepth                    inner length of one fragment
//   kPadding                  elements that pad a row in shared memory against bank conflicts
//   kSumsTiles                whether sums over tiles are formed tile by tile, see products.cuh
//   A, B                      fragments of 16 x kDepth and kDepth x 16
//   LoadA<stride>(address)    A[m][k] = tile[m][k]; the address in bytes, the stride in elements
//   LoadB<stride>(address)    B[k][n] = tile[n][k]
//   LoadBTransposed<stride>   B[k][n] = tile[k][n], for an A that comes from MakeA
//   MakeA(blocks)             the A whose columns are kDepth / 8 accumulator blocks
//   Transposed                the arithmetic that gives a b^T the bits that this one gives b a^T
//   Multiply(left, right, a, b)   adds a * b to the 16 x 8 blocks of its left and right columns
//   Exp2, Log, Store2
//
// A 16 x 8 accumulator block gives lane l the elements (l / 4, 2 * (l % 4)), the next column, and
// the same eight rows below.

namespace theria::cuda::sm80 {

template <typename ElementT>
struct MmaHalf {
  using Element = ElementT;
  using Accumulator = float;
  static constexpr int kDepth = 16;
  static constexpr int kPadding = 8;
  static constexpr bool kSumsTiles = false;

  using Transposed = MmaHalf;

  struct A {
    std::uint32_t x[4];
  };
  struct B {
    std::uint32_t x[4];
  };

  template <int kStride>
  static __device__ __forceinline__ A LoadA(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    A a;
    LoadMatrix4(address + ((lane & 15) * kStride + (lane >> 4) * 8) * 2, a.x);
    return a;
  }

  template <int kStride>
  static __device__ __forceinline__ B LoadB(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    B b;
    LoadMatrix4(address + (((lane & 7) + (lane >> 4) * 8) * kStride + (lane >> 3 & 1) * 8) * 2,
                b.x);
    return b;
  }

  template <int kStride>
  static __device__ __forceinline__ B LoadBTransposed(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    B b;
    LoadMatrix4Transposed(address + ((lane & 15) * kStride + (lane >> 4) * 8) * 2, b.x);
    return b;
  }

  static __device__ __forceinline__ A MakeA(const float (*blocks)[4]) {
    return {{Pack(blocks[0][0], blocks[0][1]), Pack(blocks[0][2], blocks[0][3]),
             Pack(blocks[1][0], blocks[1][1]), Pack(blocks[1][2], blocks[1][3])}};
  }

  static __device__ __forceinline__ void Multiply(float (&left)[4], float (&right)[4], const A& a,
                                                  const B& b) {
    MultiplyBlock(left, a, b.x[0], b.x[1]);
    MultiplyBlock(right, a, b.x[2], b.x[3]);
  }

  static __device__ __forceinline__ float Exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static __device__ __forceinline__ float Log(float x) { return logf(x); }

  static __device__ __forceinline__ void Store2(Element* destination, float x, float y) {
    *reinterpret_cast<std::uint32_t*>(destination) = Pack(x, y);
  }

 private:
  static __device__ __forceinline__ std::uint32_t Pack(float low, float high) {
    std::uint32_t packed;
    if constexpr (std::is_same_v<Element, __half>) {
      asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    } else {
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
    }
    return packed;
  }

  static __device__ __forceinline__ void MultiplyBlock(float (&c)[4], const A& a, std::uint32_t b0,
                                                       std::uint32_t b1) {
    if constexpr (std::is_same_v<Element, __half>) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
          "{%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
          "{%8, %9}, {%0, %1, %2, %3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b0), "r"(b1));
    }
  }
};

}  // namespace theria::cuda::sm80

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_HALF_CUH_
