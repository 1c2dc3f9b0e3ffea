#ifndef THERIA_ERROR_DETAILS_H_
#define THERIA_ERROR_DETAILS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

// What a server says of an error beyond its code and message. The library's statuses carry the
// google.rpc details that came with them as payloads; this reads them. Plain values, thread-safe.

namespace theria::client {

// A part of a request that does not fit.
struct FieldViolation {
  std::string field;        // its path in the request: "k.shape[3]", "options.dropout.probability"
  std::string description;  // what came and what was expected
};

struct ErrorDetails {
  std::vector<FieldViolation> field_violations;  // of INVALID_ARGUMENT
  std::vector<std::string> missing_handles;      // of FAILED_PRECONDITION: tensors that are gone
  std::vector<std::string> missing_regions;      // the same: fields whose shared memory is gone
  std::optional<absl::Duration> retry_delay;     // of RESOURCE_EXHAUSTED: when to try again
};

// Empty for a status without details.
ErrorDetails DetailsOf(const absl::Status& status);

}  // namespace theria::client

#endif  // THERIA_ERROR_DETAILS_H_
