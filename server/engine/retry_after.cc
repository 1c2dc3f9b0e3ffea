#include "server/engine/retry_after.h"

#include <cstdint>
#include <string>

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace theria::server {
namespace {

constexpr char kPayload[] = "theria/retry-after-us";

}  // namespace

absl::Status ExhaustedRetryAfter(std::string_view message, absl::Duration delay) {
  absl::Status status = absl::ResourceExhaustedError(std::string(message));
  status.SetPayload(kPayload, absl::Cord(absl::StrCat(absl::ToInt64Microseconds(delay))));
  return status;
}

std::optional<absl::Duration> RetryAfterOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  std::int64_t microseconds = 0;
  if (!payload.has_value() || !absl::SimpleAtoi(std::string(*payload), &microseconds)) {
    return std::nullopt;
  }
  return absl::Microseconds(microseconds);
}

}  // namespace theria::server
