#ifndef THERIA_KERNELS_CUDA_REGISTRY_H_
#define THERIA_KERNELS_CUDA_REGISTRY_H_

#include <cstdint>
#include <span>

#include "kernels/cuda/attention/tangents.h"
#include "kernels/cuda/attention/tile_config.h"

// The compiled kernels, found by key. variants.def lists what is compiled; the build generates the
// instantiations and this registry's table from it. Everything here is constant and thread-safe.

namespace theria::cuda {

// How products and sums are computed.
enum class Arithmetic : std::uint8_t {
  kFloat16,
  kBFloat16,
  kTf32,     // float32 tensors, TF32 products
  kFloat32,  // float32 tensors, products of float32's accuracy
  kFloat64,
};

struct KernelKey {
  KernelKind kind;
  Arithmetic arithmetic;
  int dim;              // padded head dimension
  bool general;         // masks, dropout, scales that are not positive
  TangentSet tangents;  // kAll for kernels without tangents

  bool operator==(const KernelKey&) const = default;
};

struct KernelVariant {
  KernelKey key;
  const char* name;      // "sm80_hvp_keys_bfloat16_d128_general"
  const void* function;  // __global__, takes AttentionParams by value
  int rows;              // of the stationary side that a block covers
  bool key_rows;         // whether those are keys
  int slices;            // blocks that share the same rows
  int threads;
  int shared_bytes;
};

struct StatisticsVariant {
  Arithmetic arithmetic;
  const void* function;
};

// All variants; sorted by arithmetic and dim.
std::span<const KernelVariant> KernelVariants();

// The variant of the smallest dim that is at least `key.dim`, or null.
const KernelVariant* FindKernel(const KernelKey& key);

// The row statistics pass. Exists for every arithmetic that any kernel is compiled for.
const void* FindStatisticsKernel(Arithmetic arithmetic);

const char* ArithmeticName(Arithmetic arithmetic);
const char* KernelKindName(KernelKind kind);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_REGISTRY_H_
