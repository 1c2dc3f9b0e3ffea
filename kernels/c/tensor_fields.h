#ifndef THERIA_KERNELS_C_TENSOR_FIELDS_H_
#define THERIA_KERNELS_C_TENSOR_FIELDS_H_

#include <iterator>

#include "kernels/c/include/theria/kernels.h"

// The tensors of the C interface's structs by their names in the contract, in the order of the
// tables of kernels/api/attention.h. For the library and for the bindings over it.

namespace theria::c {

template <typename Struct>
struct TensorField {
  const char* name;
  const theria_tensor* Struct::*member;
};
struct OptionTensorField {
  const char* name;
  const char* path;  // in errors
  const theria_tensor* theria_options::*member;
};

inline constexpr TensorField<theria_inputs> kInputTensors[] = {
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

inline constexpr OptionTensorField kOptionTensors[] = {
    {"mask", "options.mask", &theria_options::mask},
    {"alibi_slopes", "options.alibi_slopes", &theria_options::alibi_slopes},
    {"kv_lengths", "options.kv_lengths", &theria_options::kv_lengths},
    {"cu_seqlens_q", "options.cu_seqlens_q", &theria_options::cu_seqlens_q},
    {"cu_seqlens_kv", "options.cu_seqlens_kv", &theria_options::cu_seqlens_kv},
};

inline constexpr TensorField<theria_outputs> kOutputTensors[] = {
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

static_assert(sizeof(theria_inputs) == 8 + std::size(kInputTensors) * sizeof(void*),
              "an input is missing");
static_assert(sizeof(theria_outputs) == 8 + std::size(kOutputTensors) * sizeof(void*),
              "an output is missing");

}  // namespace theria::c

#endif  // THERIA_KERNELS_C_TENSOR_FIELDS_H_
