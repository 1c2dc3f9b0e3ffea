#include "kernels/api/backend.h"

#include "kernels/api/message.h"

namespace theria {
namespace {

class NeverInterrupt final : public Interrupt {
 public:
  absl::Status Check() const override { return absl::OkStatus(); }
};

absl::Status Refuse(std::string_view backend, std::string_view name) {
  return absl::UnimplementedError(Message("the ", backend, " backend does not support ", name));
}

}  // namespace

const Interrupt& NoInterrupt() {
  static const NeverInterrupt interrupt;
  return interrupt;
}

absl::Status CheckPlainOptions(std::string_view backend, const AttentionProblem& problem,
                               const AttentionOptions& options) {
  if (!problem.has_scores() || problem.head_dim == 0 || problem.head_dim_v == 0) {
    return Refuse(backend, "empty tensors");
  }
  if (options.softcap.has_value()) return Refuse(backend, "options.softcap");
  if (options.deterministic) return Refuse(backend, "options.deterministic");
  if (options.causal_alignment != CausalAlignment::kUpperLeft) {
    return Refuse(backend, "options.causal_alignment lower right");
  }
  for (const OptionTensor& tensor : kOptionTensors) {
    if (tensor.name == "mask" || !(options.*tensor.member).has_value()) continue;
    return Refuse(backend, tensor.path);
  }
  return absl::OkStatus();
}

absl::Status CheckPlainTensors(std::string_view backend, const AttentionInputs& inputs,
                               const AttentionOutputs& outputs) {
  if (inputs.lse_bar.has_value()) return Refuse(backend, "lse_bar");
  if (inputs.lse_bar_dot.has_value()) return Refuse(backend, "lse_bar_dot");
  if (inputs.bias_dot.has_value()) return Refuse(backend, "bias_dot");
  for (const OutputField& field : kOutputFields) {
    if (IsOfBias(field.name) && (outputs.*field.member).has_value()) {
      return Refuse(backend, field.name);
    }
  }
  return absl::OkStatus();
}

}  // namespace theria
