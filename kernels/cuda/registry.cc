#include "kernels/cuda/registry.h"

#include <algorithm>
#include <vector>

#include "kernels/cuda/variant_table.h"

namespace theria::cuda {

std::span<const KernelVariant> KernelVariants() {
  static const std::vector<KernelVariant>* const variants = [] {
    auto* table = new std::vector<KernelVariant>(CompiledKernels());
    std::stable_sort(table->begin(), table->end(),
                     [](const KernelVariant& a, const KernelVariant& b) {
                       if (a.key.arithmetic != b.key.arithmetic) {
                         return a.key.arithmetic < b.key.arithmetic;
                       }
                       return a.key.dim < b.key.dim;
                     });
    return table;
  }();
  return *variants;
}

const KernelVariant* FindKernel(const KernelKey& key) {
  for (const KernelVariant& variant : KernelVariants()) {
    KernelKey found = variant.key;
    if (found.dim < key.dim) continue;
    found.dim = key.dim;
    if (found == key) return &variant;
  }
  return nullptr;
}

const void* FindStatisticsKernel(Arithmetic arithmetic) {
  static const std::vector<StatisticsVariant>* const variants =
      new std::vector<StatisticsVariant>(CompiledStatistics());
  for (const StatisticsVariant& variant : *variants) {
    if (variant.arithmetic == arithmetic) return variant.function;
  }
  return nullptr;
}

const char* ArithmeticName(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFloat16:
      return "float16";
    case Arithmetic::kBFloat16:
      return "bfloat16";
    case Arithmetic::kTf32:
      return "tf32";
    case Arithmetic::kFloat32:
      return "float32";
    case Arithmetic::kFloat64:
      return "float64";
  }
  return "unknown";
}

const char* KernelKindName(KernelKind kind) {
  switch (kind) {
    case KernelKind::kForward:
      return "forward";
    case KernelKind::kJvp:
      return "jvp";
    case KernelKind::kVjpQueries:
      return "vjp_queries";
    case KernelKind::kVjpKeys:
      return "vjp_keys";
    case KernelKind::kHvpQueries:
      return "hvp_queries";
    case KernelKind::kHvpKeys:
      return "hvp_keys";
  }
  return "unknown";
}

}  // namespace theria::cuda
