#ifndef THERIA_KERNELS_C_LAST_ERROR_H_
#define THERIA_KERNELS_C_LAST_ERROR_H_

#include <utility>

#include "absl/status/status.h"
#include "kernels/c/include/theria/kernels.h"

namespace theria::c {

// Records the outcome of a call as the calling thread's last error and returns its code.
theria_code Record(const absl::Status& status);

// Of the calling thread's last error; "" if it had none.
const char* LastMessage();
const char* LastField();

// Records the exception that is being handled.
theria_code RecordException() noexcept;

// Runs `body`, which returns an absl::Status, and records its outcome. Exceptions become codes:
// they must not cross the C interface.
template <typename Body>
theria_code Guarded(Body&& body) noexcept {
  try {
    return Record(std::forward<Body>(body)());
  } catch (...) {
    return RecordException();
  }
}

}  // namespace theria::c

#endif  // THERIA_KERNELS_C_LAST_ERROR_H_
