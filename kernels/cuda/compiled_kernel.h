#ifndef THERIA_KERNELS_CUDA_COMPILED_KERNEL_H_
#define THERIA_KERNELS_CUDA_COMPILED_KERNEL_H_

#include <cstdint>

#include "kernels/cuda/attention/tangents.h"
#include "kernels/cuda/attention/tile_config.h"

// What a generated instantiation file says about its kernels. There are many of those files, and
// what they include is most of their compile time: nothing of the standard library here.

namespace theria::cuda {

// How products and sums are computed.
enum class Arithmetic : std::uint8_t {
  kFloat16,
  kBFloat16,
  kTf32,     // float32 tensors, TF32 products
  kFloat32,  // float32 tensors, products of float32's accuracy
  kFloat64,
};

// The instructions that a kernel is made of.
enum class Generation : std::uint8_t {
  kSm80,   // every GPU since compute capability 8.0
  kSm90a,  // compute capability 9.0 only
};

struct KernelKey {
  KernelKind kind;
  Arithmetic arithmetic;
  int dim;              // padded head dimension
  bool general;         // masks, dropout, scales that are not positive
  TangentSet tangents;  // kAll for kernels without tangents
  // With `general` only: soft cap, ALiBi, a bias's tangent, key ranges that vary by row.
  bool extended = false;

  bool operator==(const KernelKey&) const = default;
};

struct CompiledKernel {
  KernelKey key;
  Generation generation;
  const void* function;  // __global__, takes AttentionParams or sm90a::Params by value
  int rows;              // of the stationary side that a block covers
  int columns;           // of the moving side that it takes at once
  int stages;            // buffers of the moving side
  bool key_rows;         // whether the stationary side are keys
  int slices;            // blocks that share the same rows
  int threads;
  int shared_bytes;
  // Of kVjp: a __global__ that takes AttentionParams and writes q_bar from q_bar_sum, with a block
  // of 128 threads for q_bar_part elements of the sum, and the sum's columns.
  const void* write_q_bar = nullptr;
  int q_bar_part = 0;
  int q_bar_sum_columns = 0;
  bool persistent = false;  // whether a block takes tile after tile, see sm90a/tile_queue.cuh
};

// Receives the kernels.
class KernelTable {
 public:
  virtual void Add(const CompiledKernel& kernel) = 0;

 protected:
  ~KernelTable() = default;
};

// Adds all; generated from variants.def.
void AddCompiledKernels(KernelTable* table);

// The row statistics pass, a __global__ that takes AttentionParams by value; null if no kernel is
// compiled for `arithmetic`. Generated from variants.def.
const void* FindStatisticsKernel(Arithmetic arithmetic);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_COMPILED_KERNEL_H_
