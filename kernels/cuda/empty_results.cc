#include "kernels/cuda/empty_results.h"

#include <cstdint>
#include <optional>

#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/strided_copy.h"

namespace theria::cuda {

absl::Status EnqueueEmptyResults(const AttentionOutputs& outputs, cudaStream_t stream) {
  for (const OutputField& field : kOutputFields) {
    const std::optional<MutableTensorView>& view = outputs.*field.member;
    if (!view.has_value()) continue;
    std::uint64_t bits = 0;
    if (field.name == "lse") {  // -inf
      bits = view->dtype == DType::kFloat64 ? 0xfff0000000000000u : 0xff800000u;
    }
    THERIA_CUDA_RETURN_IF_ERROR(FillStrided(*view, bits, stream));
  }
  return absl::OkStatus();
}

}  // namespace theria::cuda
