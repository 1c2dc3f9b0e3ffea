#ifndef THERIA_KERNELS_CUDA_PRIMITIVES_SM80_CP_ASYNC_CUH_
#define THERIA_KERNELS_CUDA_PRIMITIVES_SM80_CP_ASYNC_CUH_

#include <cstdint>

// Asynchronous copies from global to shared memory, in groups.

namespace theria::cuda::sm80 {

// Copies 16 bytes, or writes 16 zero bytes where not `valid`. Both addresses are 16-byte aligned;
// `source` must be a readable address only where valid.
__device__ __forceinline__ void CopyAsync16(std::uint32_t destination, const void* source,
                                            bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(destination), "l"(source),
               "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void CommitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits for all of this thread's copies but those of the `kPending` youngest groups.
template <int kPending>
__device__ __forceinline__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Copies a [kRows, kDim] tile, its rows `row_stride` elements apart, into shared memory rows of
// kSharedStride elements; rows from `valid_rows` and columns from `valid_columns` on become zero.
// REQUIRES: valid_columns is a multiple of 16 bytes; every thread of the block takes part.
template <typename Element, int kRows, int kDim, int kSharedStride, int kThreads>
__device__ __forceinline__ void CopyTileAsync(std::uint32_t destination, const Element* source,
                                              std::int64_t row_stride, int valid_rows,
                                              int valid_columns) {
  constexpr int kVector = 16 / sizeof(Element);
  constexpr int kChunks = kDim / kVector;  // of a row
  constexpr int kCount = kRows * kChunks;
  if constexpr (kThreads % kChunks == 0) {
    constexpr int kRowStep = kThreads / kChunks;
    const int row = threadIdx.x / kChunks;
    const int column = threadIdx.x % kChunks * kVector;
    const bool valid_column = column < valid_columns;
    const Element* from = source + row * row_stride + column;
    destination += (row * kSharedStride + column) * sizeof(Element);
#pragma unroll
    for (int step = 0; step < (kRows + kRowStep - 1) / kRowStep; ++step) {
      if (kRows % kRowStep == 0 || row + step * kRowStep < kRows) {
        const bool valid = valid_column && row + step * kRowStep < valid_rows;
        CopyAsync16(destination + step * kRowStep * kSharedStride * sizeof(Element),
                    valid ? from : source, valid);
        from += kRowStep * row_stride;
      }
    }
  } else {
#pragma unroll
    for (int step = 0; step < (kCount + kThreads - 1) / kThreads; ++step) {
      const int chunk = threadIdx.x + step * kThreads;
      if (kCount % kThreads == 0 || chunk < kCount) {
        const int row = chunk / kChunks;
        const int column = chunk % kChunks * kVector;
        const bool valid = row < valid_rows && column < valid_columns;
        CopyAsync16(destination + (row * kSharedStride + column) * sizeof(Element),
                    valid ? source + row * row_stride + column : source, valid);
      }
    }
  }
}

}  // namespace theria::cuda::sm80

#endif  // THERIA_KERNELS_CUDA_PRIMITIVES_SM80_CP_ASYNC_CUH_
