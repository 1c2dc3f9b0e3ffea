#include "server/cache/exhausted.h"

#include <string>

#include "absl/strings/cord.h"

namespace theria::server {
namespace {

constexpr char kPayload[] = "theria/exhausted-for-good";

}  // namespace

absl::Status ExhaustedForGood(std::string_view message) {
  absl::Status status = absl::ResourceExhaustedError(std::string(message));
  status.SetPayload(kPayload, absl::Cord("1"));
  return status;
}

bool IsExhaustedForGood(const absl::Status& status) {
  return status.GetPayload(kPayload).has_value();
}

}  // namespace theria::server
