#ifndef THERIA_SERVER_CACHE_EXHAUSTED_H_
#define THERIA_SERVER_CACHE_EXHAUSTED_H_

#include <string_view>

#include "absl/status/status.h"

// RESOURCE_EXHAUSTED that will not pass: what is asked for is more than there ever is for the
// caller. Nobody should try again.

namespace theria::server {

absl::Status ExhaustedForGood(std::string_view message);

// Whether ExhaustedForGood made it.
bool IsExhaustedForGood(const absl::Status& status);

}  // namespace theria::server

#endif  // THERIA_SERVER_CACHE_EXHAUSTED_H_
