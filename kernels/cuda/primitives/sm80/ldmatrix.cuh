#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM80_LDMATRIX_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM80_LDMATRIX_CUH_

#include <cstdint>

// Loads from shared memory by 32-bit shared addresses. All lanes of a warp take part.

namespace theria::cuda::sm80 {

__device__ __forceinline__ std::uint32_t SharedAddress(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and
// receives row l / 4, elements 2 * (l % 4) and the next, of each.
__device__ __forceinline__ void LoadMatrix4(std::uint32_t address, std::uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

// The same, each matrix transposed.
__device__ __forceinline__ void LoadMatrix4Transposed(std::uint32_t address,
                                                      std::uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address));
}

__device__ __forceinline__ float LoadShared(std::uint32_t address, float) {
  float x;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(address));
  return x;
}

__device__ __forceinline__ double LoadShared(std::uint32_t address, double) {
  double x;
  asm volatile("ld.shared.f64 %0, [%1];" : "=d"(x) : "r"(address));
  return x;
}

// Four words, aligned to 16 bytes.
__device__ __forceinline__ void LoadShared4(std::uint32_t address, std::uint32_t (&x)[4]) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(address)
               : "memory");
}

__device__ __forceinline__ void StoreShared4(std::uint32_t address, const std::uint32_t (&x)[4]) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(x[0]), "r"(x[1]),
               "r"(x[2]), "r"(x[3])
               : "memory");
}

__device__ __forceinline__ void StoreShared4(std::uint32_t address, const float (&x)[4]) {
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(x[0]), "f"(x[1]),
               "f"(x[2]), "f"(x[3])
               : "memory");
}

// Two adjacent elements, aligned to both.
__device__ __forceinline__ void LoadSharedPair(std::uint32_t address, float& x, float& y) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x), "=f"(y) : "r"(address));
}

__device__ __forceinline__ void LoadSharedPair(std::uint32_t address, double& x, double& y) {
  asm volatile("ld.shared.v2.f64 {%0, %1}, [%2];" : "=d"(x), "=d"(y) : "r"(address));
}

}  // namespace theria::cuda::sm80

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM80_LDMATRIX_CUH_
