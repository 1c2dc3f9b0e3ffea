#ifndef THERIA_KERNELS_C_REQUEST_H_
#define THERIA_KERNELS_C_REQUEST_H_

#include "absl/status/statusor.h"
#include "kernels/api/attention.h"
#include "kernels/c/include/theria/kernels.h"

// The structs of the C interface as the values that a Backend takes.

namespace theria::c {

struct Request {
  AttentionProblem problem;
  AttentionInputs inputs;
  AttentionOutputs outputs;
};

// Inputs and options, validated; no element is looked at, and `data` may be null.
// `options` may be null. Errors: INVALID_ARGUMENT, UNIMPLEMENTED as versioned.h says.
absl::StatusOr<Request> ReadInputs(theria_operation operation, const theria_inputs* inputs,
                                   const theria_options* options);

// All of a call. Every tensor has data, and each output the layout that the problem gives it.
// Errors: as ReadInputs.
absl::StatusOr<Request> ReadCall(theria_operation operation, const theria_inputs* inputs,
                                 const theria_options* options, const theria_outputs* outputs);

}  // namespace theria::c

#endif  // THERIA_KERNELS_C_REQUEST_H_
