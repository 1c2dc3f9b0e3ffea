#ifndef THERIA_SERVER_ENGINE_RETRY_AFTER_H_
#define THERIA_SERVER_ENGINE_RETRY_AFTER_H_

#include <optional>
#include <string_view>

#include "absl/status/status.h"
#include "absl/time/time.h"

// RESOURCE_EXHAUSTED that will pass: carries how long a caller should wait before it tries again.
// The edge turns it into a google.rpc.RetryInfo.

namespace theria::server {

absl::Status ExhaustedRetryAfter(std::string_view message, absl::Duration delay);

// The delay that ExhaustedRetryAfter recorded, or nothing.
std::optional<absl::Duration> RetryAfterOf(const absl::Status& status);

}  // namespace theria::server

#endif  // THERIA_SERVER_ENGINE_RETRY_AFTER_H_
