#ifndef THERIA_KERNELS_CUDA_REGISTRY_H_
#define THERIA_KERNELS_CUDA_REGISTRY_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include "kernels/cuda/compiled_kernel.h"
#include "kernels/cuda/tuning.h"

// The compiled kernels, and which of them a device uses. variants.def lists what is compiled; the
// build generates the instantiations and this registry's table from it. Everything here is constant
// and thread-safe.

namespace theria::cuda {

struct KernelVariant : CompiledKernel {
  std::string group;  // "hvp_keys_bfloat16_d128_general": variants that do the same
  std::string name;   // "sm80_hvp_keys_bfloat16_d128_general_64x32x1": rows, columns, stages
};

// What a device can run.
struct DeviceLimits {
  int compute_capability;    // 90 is 9.0
  std::size_t shared_bytes;  // of a block, at most
};

// All variants; sorted by arithmetic and dim, and among those of one key the preferred first.
std::span<const KernelVariant> KernelVariants();

bool CanRun(const DeviceLimits& device, const KernelVariant& variant);

// What a kernel is wanted for, beside its key.
struct KernelUse {
  std::int64_t length;  // of the longer sequence
  bool is_causal;
  bool mapped;  // whether the inputs suit the copy engine, see sm90a/tensor_maps.h
};

// The variants that one device uses.
class KernelChooser {
 public:
  KernelChooser(const DeviceLimits& device, Tuning tuning)
      : device_(device), tuning_(std::move(tuning)) {}

  // Of the variants of the smallest dim that is at least `key.dim` and that the device can run, the
  // one that the tuning names for that use, or else the first; null if there is none.
  const KernelVariant* Find(const KernelKey& key, const KernelUse& use) const;

  const DeviceLimits& device() const { return device_; }

 private:
  DeviceLimits device_;
  Tuning tuning_;
};

const char* ArithmeticName(Arithmetic arithmetic);
const char* KernelKindName(KernelKind kind);
// KernelVariant::group of that key.
std::string GroupName(const KernelKey& key);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_REGISTRY_H_
