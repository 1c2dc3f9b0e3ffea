#include "kernels/cuda/registry.h"

#include <algorithm>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/api/message.h"

namespace theria::cuda {
namespace {

class VariantTable : public KernelTable {
 public:
  void Add(const CompiledKernel& kernel) override {
    const std::string group = GroupName(kernel.key);
    const char* generation = kernel.generation == Generation::kSm90a ? "sm90a_" : "sm80_";
    variants.push_back(
        {kernel, group,
         Message(generation, group, '_', kernel.rows, 'x', kernel.columns, 'x', kernel.stages)});
  }

  std::vector<KernelVariant> variants;
};

}  // namespace

std::span<const KernelVariant> KernelVariants() {
  static const std::vector<KernelVariant>* const variants = [] {
    VariantTable compiled;
    AddCompiledKernels(&compiled);
    auto* table = new std::vector<KernelVariant>(std::move(compiled.variants));
    std::stable_sort(table->begin(), table->end(),
                     [](const KernelVariant& a, const KernelVariant& b) {
                       return std::tuple(a.key.arithmetic, a.key.dim, b.generation) <
                              std::tuple(b.key.arithmetic, b.key.dim, a.generation);
                     });
    return table;
  }();
  return *variants;
}

bool CanRun(const DeviceLimits& device, const KernelVariant& variant) {
  if (static_cast<std::size_t>(variant.shared_bytes) > device.shared_bytes) return false;
  switch (variant.generation) {
    case Generation::kSm80:
      return device.compute_capability >= 80;
    case Generation::kSm90a:
      return device.compute_capability == 90;
  }
  return false;
}

const KernelVariant* KernelChooser::Find(const KernelKey& key, const KernelUse& use) const {
  const KernelVariant* first = nullptr;
  std::string_view choice;
  for (const KernelVariant& variant : KernelVariants()) {
    KernelKey found = variant.key;
    if (found.dim < key.dim || (first != nullptr && found.dim > first->key.dim)) continue;
    found.dim = key.dim;
    if (found != key || !CanRun(device_, variant)) continue;
    if (variant.generation == Generation::kSm90a && !use.mapped) continue;
    if (first == nullptr) {
      first = &variant;
      choice = tuning_.Choice(variant.group, LengthClassOf(use.length), use.is_causal);
    }
    if (variant.name == choice) return &variant;
  }
  return first;
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
    case KernelKind::kVjp:
      return "vjp";
    case KernelKind::kHvpQueries:
      return "hvp_queries";
    case KernelKind::kHvpKeys:
      return "hvp_keys";
  }
  return "unknown";
}

std::string GroupName(const KernelKey& key) {
  return Message(KernelKindName(key.kind), '_', ArithmeticName(key.arithmetic), "_d", key.dim,
                 key.extended                          ? "_extended"
                 : key.general                         ? "_general"
                 : key.tangents == TangentSet::kInputs ? "_inputs"
                                                       : "");
}

}  // namespace theria::cuda
