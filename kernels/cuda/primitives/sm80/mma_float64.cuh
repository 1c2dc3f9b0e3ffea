#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_FLOAT64_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_FLOAT64_CUH_

#include <cstdint>

#include "kernels/cuda/primitives/sm80/ldmatrix.cuh"

// One warp's matrix products in float64 (mma.sync m8n8k4); the members are those that mma_half.cuh
// describes. A 16 x 8 block is two 8 x 8 products, one above the other.

namespace theria::cuda::sm80 {

struct MmaFloat64 {
  using Element = double;
  using Accumulator = double;
  static constexpr int kDepth = 8;
  static constexpr int kPadding = 4;
  static constexpr bool kSumsTiles = false;
  using Transposed = MmaFloat64;

  struct Fragment {
    double x[2][2];  // [half of the rows or columns][four of the inner indices]
  };
  using A = Fragment;
  using B = Fragment;

  template <int kStride>
  static __device__ __forceinline__ A LoadA(std::uint32_t address) {
    return Load<8 * kStride, 4>(address + Lane(kStride));
  }

  template <int kStride>
  static __device__ __forceinline__ B LoadB(std::uint32_t address) {
    return Load<8 * kStride, 4>(address + Lane(kStride));
  }

  // Inner index t of step s stands for row 2t + s of the tile, as MakeA has them.
  template <int kStride>
  static __device__ __forceinline__ B LoadBTransposed(std::uint32_t address) {
    const int lane = threadIdx.x % 32;
    return Load<8, kStride>(address + (lane % 4 * 2 * kStride + lane / 4) * 8);
  }

  static __device__ __forceinline__ A MakeA(const double (*blocks)[4]) {
    return {{{blocks[0][0], blocks[0][1]}, {blocks[0][2], blocks[0][3]}}};
  }

  static __device__ __forceinline__ void Multiply(double (&left)[4], double (&right)[4], const A& a,
                                                  const B& b) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        MultiplyBlock(left[2 * half], left[2 * half + 1], a.x[half][step], b.x[0][step]);
        MultiplyBlock(right[2 * half], right[2 * half + 1], a.x[half][step], b.x[1][step]);
      }
    }
  }

  static __device__ __forceinline__ double Exp2(double x) { return exp2(x); }
  static __device__ __forceinline__ double Log(double x) { return log(x); }

  static __device__ __forceinline__ void Store2(double* destination, double x, double y) {
    *reinterpret_cast<double2*>(destination) = make_double2(x, y);
  }

 private:
  static __device__ __forceinline__ std::uint32_t Lane(int stride) {
    const int lane = threadIdx.x % 32;
    return (lane / 4 * stride + lane % 4) * 8;
  }

  template <int kOuter, int kInner>
  static __device__ __forceinline__ Fragment Load(std::uint32_t address) {
    Fragment a;
#pragma unroll
    for (int outer = 0; outer < 2; ++outer) {
#pragma unroll
      for (int inner = 0; inner < 2; ++inner) {
        a.x[outer][inner] = LoadShared(address + (outer * kOuter + inner * kInner) * 8, 0.0);
      }
    }
    return a;
  }

  static __device__ __forceinline__ void MultiplyBlock(double& c0, double& c1, double a, double b) {
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};"
        : "+d"(c0), "+d"(c1)
        : "d"(a), "d"(b));
  }
};

}  // namespace theria::cuda::sm80

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM80_MMA_FLOAT64_CUH_
