#ifndef THERIA_ERROR_DETAILS_H_
#define THERIA_ERROR_DETAILS_H_

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

// The structured details of an error. The library's statuses carry the server's google.rpc details
// as payloads, and DetailsOf reads them. Plain values; thread-safe.

namespace theria::client {

// An invalid field of a request.
struct FieldViolation {
  std::string field;        // path in the request: "k.shape[3]", "options.dropout.probability"
  std::string description;  // the received and the expected value
};

struct ErrorDetails {
  std::vector<FieldViolation> field_violations;  // of INVALID_ARGUMENT
  std::vector<std::string> missing_handles;      // of FAILED_PRECONDITION: missing tensors
  std::vector<std::string> missing_regions;      // the same: fields whose shared memory is missing
  std::optional<absl::Duration> retry_delay;     // of RESOURCE_EXHAUSTED: when to retry
};

// Returns an empty ErrorDetails for a status without details.
ErrorDetails DetailsOf(const absl::Status& status);

}  // namespace theria::client

#endif  // THERIA_ERROR_DETAILS_H_
