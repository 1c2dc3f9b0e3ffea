#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BULK_COPY_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BULK_COPY_CUH_

#include <cuda.h>

#include <cstdint>

// Copies from global to shared memory by TMA, started by one thread; `barrier` counts the bytes.
// Additions to global memory.

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

// Adds `bytes` adjacent bytes of float32 in shared memory to global memory, each element by itself
// and in any order with other additions. A multiple of 16 bytes; both addresses are 16-byte
// aligned. Part of the calling thread's open group.
__device__ __forceinline__ void AddFloats(float* destination, std::uint32_t source, int bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   destination),
               "r"(source), "r"(bytes)
               : "memory");
}

// Ends the calling thread's group of additions.
__device__ __forceinline__ void CommitAdditions() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until all but the `kPending` youngest groups of the calling thread have read their sources.
template <int kPending>
__device__ __forceinline__ void WaitForAdditionsToRead() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

// The same, straight from registers: four adjacent elements at a 16-byte boundary.
__device__ __forceinline__ void AddFloats(float* destination, const float (&x)[4]) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(destination),
               "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3])
               : "memory");
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM90A_BULK_COPY_CUH_
