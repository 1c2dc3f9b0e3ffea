#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_STORE_MATRIX_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_STORE_MATRIX_CUH_

#include <cstdint>

// Stores of a warp's fragments to shared memory (stmatrix). All lanes of the warp take part.

namespace theria::cuda::sm90a {

// Four 8 x 8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and
// holds row l / 4, elements 2 * (l % 4) and the next, of each.
__device__ __forceinline__ void StoreMatrix4(std::uint32_t address, const std::uint32_t (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_STORE_MATRIX_CUH_
