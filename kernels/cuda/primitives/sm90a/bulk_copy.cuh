#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BULK_COPY_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BULK_COPY_CUH_

#include <cuda.h>

#include <cstdint>

// Copies from global to shared memory by the copy engine, started by one thread; `barrier` counts
// the bytes.

namespace theria::cuda::sm90a {

// The box of `map` whose first element is `column` of `row` of `head` of `batch`. Elements outside
// the tensor become zero and count as bytes all the same. `map` lies in a kernel's parameters.
__device__ __forceinline__ void CopyBox(std::uint32_t destination, const CUtensorMap* map,
                                        std::uint32_t barrier, int column, int row, int head,
                                        int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(destination),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch)
      : "memory");
}

// `bytes` adjacent bytes, a multiple of 16; both addresses are 16-byte aligned.
__device__ __forceinline__ void CopyBytes(std::uint32_t destination, const void* source,
                                          std::uint32_t barrier, int bytes) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %3, [%2];" ::
          "r"(destination),
      "l"(source), "r"(barrier), "r"(bytes)
      : "memory");
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BULK_COPY_CUH_
