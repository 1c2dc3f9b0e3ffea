#ifndef THERIA_KERNELS_C_JAX_CALL_H_
#define THERIA_KERNELS_C_JAX_CALL_H_

#include <xla/ffi/api/ffi.h>

#include <cstdint>

#include "kernels/c/include/theria/kernels.h"

namespace theria::jax {

// Where XLA wants a call to run.
struct Place {
  theria_device_type device_type;
  int32_t ordinal;
  theria_launch launch;
};

// Runs one operation on XLA's buffers. Operands and results are named by the attributes `inputs`
// and `outputs`; the operand "seed" is uint32 [2], the high half of dropout's seed first.
xla::ffi::Error Run(theria_operation operation, const Place& place,
                    const xla::ffi::RemainingArgs& operands, const xla::ffi::RemainingRets& results,
                    const xla::ffi::Dictionary& attributes);

}  // namespace theria::jax

#endif  // THERIA_KERNELS_C_JAX_CALL_H_
