#ifndef THERIA_KERNELS_C_PYTHON_BINDING_FIELDS_H_
#define THERIA_KERNELS_C_PYTHON_BINDING_FIELDS_H_

#include <iterator>

#include "kernels/c/tensor_fields.h"

// The numbers that a call's tensors have in Python: the indices of kOutputTensors, and of
// kInputTensors followed by kOptionTensors, which are INPUTS.

namespace theria::python {

using c::kInputTensors;
using c::kOptionTensors;
using c::kOutputTensors;

inline constexpr int kInputCount = std::size(kInputTensors);
inline constexpr int kTensorCount = kInputCount + std::size(kOptionTensors);
inline constexpr int kOutputCount = std::size(kOutputTensors);

// Indices of INPUTS.
inline constexpr int kQ = 0;
inline constexpr int kK = 1;
inline constexpr int kV = 2;
inline constexpr int kMask = kInputCount;

}  // namespace theria::python

#endif  // THERIA_KERNELS_C_PYTHON_BINDING_FIELDS_H_
