#ifndef THERIA_KERNELS_C_PYTHON_BINDING_FIELDS_H_
#define THERIA_KERNELS_C_PYTHON_BINDING_FIELDS_H_

#include <iterator>

#include "kernels/c/include/theria/kernels.h"

// The tensors of a call by their names in the contract. Their numbers in Python are the indices
// here: INPUTS are kInputs followed by kOptionTensors.

namespace theria::python {

struct InputField {
  const char* name;
  const theria_tensor* theria_inputs::*member;
};
inline constexpr InputField kInputs[] = {
    {"q", &theria_inputs::q},
    {"k", &theria_inputs::k},
    {"v", &theria_inputs::v},
    {"o", &theria_inputs::o},
    {"lse", &theria_inputs::lse},
    {"o_bar", &theria_inputs::o_bar},
    {"q_dot", &theria_inputs::q_dot},
    {"k_dot", &theria_inputs::k_dot},
    {"v_dot", &theria_inputs::v_dot},
    {"o_bar_dot", &theria_inputs::o_bar_dot},
    {"lse_bar", &theria_inputs::lse_bar},
    {"lse_bar_dot", &theria_inputs::lse_bar_dot},
    {"bias_dot", &theria_inputs::bias_dot},
};

struct OptionField {
  const char* name;
  const theria_tensor* theria_options::*member;
};
inline constexpr OptionField kOptionTensors[] = {
    {"options.mask", &theria_options::mask},
    {"options.alibi_slopes", &theria_options::alibi_slopes},
    {"options.kv_lengths", &theria_options::kv_lengths},
    {"options.cu_seqlens_q", &theria_options::cu_seqlens_q},
    {"options.cu_seqlens_kv", &theria_options::cu_seqlens_kv},
};

struct OutputField {
  const char* name;
  const theria_tensor* theria_outputs::*member;
};
inline constexpr OutputField kOutputs[] = {
    {"o", &theria_outputs::o},
    {"lse", &theria_outputs::lse},
    {"o_dot", &theria_outputs::o_dot},
    {"lse_dot", &theria_outputs::lse_dot},
    {"q_bar", &theria_outputs::q_bar},
    {"k_bar", &theria_outputs::k_bar},
    {"v_bar", &theria_outputs::v_bar},
    {"q_bar_dot", &theria_outputs::q_bar_dot},
    {"k_bar_dot", &theria_outputs::k_bar_dot},
    {"v_bar_dot", &theria_outputs::v_bar_dot},
    {"bias_bar", &theria_outputs::bias_bar},
    {"bias_bar_dot", &theria_outputs::bias_bar_dot},
};

inline constexpr int kInputCount = std::size(kInputs);
inline constexpr int kTensorCount = kInputCount + std::size(kOptionTensors);
inline constexpr int kOutputCount = std::size(kOutputs);

static_assert(sizeof(theria_inputs) == 8 + kInputCount * sizeof(void*), "an input is missing");
static_assert(sizeof(theria_outputs) == 8 + kOutputCount * sizeof(void*), "an output is missing");

// Indices of INPUTS.
inline constexpr int kQ = 0;
inline constexpr int kK = 1;
inline constexpr int kV = 2;
inline constexpr int kMask = kInputCount;

}  // namespace theria::python

#endif  // THERIA_KERNELS_C_PYTHON_BINDING_FIELDS_H_
