#ifndef THERIA_KERNELS_C_JAX_ATTRIBUTES_H_
#define THERIA_KERNELS_C_JAX_ATTRIBUTES_H_

#include <xla/ffi/api/ffi.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/c/include/theria/kernels.h"

namespace theria::jax {

// What the attributes of a custom call say.
struct Attributes {
  std::vector<std::string_view> inputs;   // the operands, in their order: "q", "mask", "seed"
  std::vector<std::string_view> outputs;  // the results, in their order: "o", "q_bar"
  theria_options options{};               // without seed and tensors, which are operands
  int32_t threads = 0;                    // of the CPU; 0: one per core
};

// Errors: INVALID_ARGUMENT for an attribute that is unknown, missing or of another type.
xla::ffi::ErrorOr<Attributes> ReadAttributes(const xla::ffi::Dictionary& attributes);

}  // namespace theria::jax

#endif  // THERIA_KERNELS_C_JAX_ATTRIBUTES_H_
