#include "server/rpc/status_map.h"

#include <cstdint>
#include <optional>
#include <string_view>

#include "absl/strings/cord.h"
#include "absl/time/time.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "kernels/api/attention.h"
#include "kernels/api/message.h"
#include "server/cache/exhausted.h"
#include "server/engine/retry_after.h"

namespace theria::server {
namespace {

constexpr char kMissingPayload[] = "theria/missing";
constexpr char kTensorMissing[] = "TENSOR_MISSING";
constexpr char kRegionMissing[] = "REGION_MISSING";
constexpr absl::Duration kDefaultRetryDelay = absl::Seconds(1);

// Message and details travel as headers, of which gRPC takes 8 KiB by default.
constexpr std::size_t kMaxMessageBytes = 1024;
constexpr std::size_t kMaxSubjectBytes = 128;

std::string Cut(std::string_view text, std::size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  std::size_t end = max_bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // whole UTF-8
  return std::string(text.substr(0, end)) + "...";
}

std::optional<google::rpc::PreconditionFailure> MissingPayload(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kMissingPayload);
  google::rpc::PreconditionFailure failure;
  if (!payload.has_value() || !failure.ParseFromString(std::string(*payload))) return std::nullopt;
  return failure;
}

void SetDelay(absl::Duration delay, google::rpc::RetryInfo& info) {
  const std::int64_t seconds = absl::IDivDuration(delay, absl::Seconds(1), &delay);
  info.mutable_retry_delay()->set_seconds(seconds);
  info.mutable_retry_delay()->set_nanos(static_cast<std::int32_t>(absl::ToInt64Nanoseconds(delay)));
}

void AddDetails(const absl::Status& status, const std::string& message,
                google::rpc::Status& details) {
  if (const std::optional<std::string> field = FieldOf(status); field.has_value()) {
    google::rpc::BadRequest bad_request;
    google::rpc::BadRequest::FieldViolation* violation = bad_request.add_field_violations();
    violation->set_field(Cut(*field, kMaxSubjectBytes));
    violation->set_description(message);
    details.add_details()->PackFrom(bad_request);
  }
  if (const auto failure = MissingPayload(status); failure.has_value()) {
    details.add_details()->PackFrom(*failure);
  }
  if (absl::IsResourceExhausted(status) && !IsExhaustedForGood(status)) {
    google::rpc::RetryInfo retry;
    SetDelay(RetryAfterOf(status).value_or(kDefaultRetryDelay), retry);
    details.add_details()->PackFrom(retry);
  }
}

}  // namespace

absl::Status TensorsMissing(absl::Span<const std::string> handles) {
  google::rpc::PreconditionFailure failure;
  for (const std::string& handle : handles) {
    google::rpc::PreconditionFailure::Violation* violation = failure.add_violations();
    violation->set_type(kTensorMissing);
    violation->set_subject(Cut(handle, kMaxSubjectBytes));
  }
  absl::Status status = absl::FailedPreconditionError(
      "no resident tensor of that handle: unknown, expired, evicted or deleted; upload again and "
      "retry");
  status.SetPayload(kMissingPayload, absl::Cord(failure.SerializeAsString()));
  return status;
}

absl::Status RegionMissing(std::string_view field) {
  google::rpc::PreconditionFailure failure;
  google::rpc::PreconditionFailure::Violation* violation = failure.add_violations();
  violation->set_type(kRegionMissing);
  violation->set_subject(std::string(field));
  absl::Status status = absl::FailedPreconditionError(
      Message(field, " names no region of shared memory: unknown, expired or deleted"));
  status.SetPayload(kMissingPayload, absl::Cord(failure.SerializeAsString()));
  return status;
}

std::vector<std::string> MissingTensorsOf(const absl::Status& status) {
  std::vector<std::string> handles;
  if (const auto failure = MissingPayload(status); failure.has_value()) {
    for (const auto& violation : failure->violations()) {
      if (violation.type() == kTensorMissing) handles.push_back(violation.subject());
    }
  }
  return handles;
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message = Cut(std::string(status.message()), kMaxMessageBytes);
  google::rpc::Status details;
  AddDetails(status, message, details);
  if (details.details().empty()) return {code, message};
  details.set_code(code);
  details.set_message(message);
  return {code, message, details.SerializeAsString()};
}

}  // namespace theria::server
