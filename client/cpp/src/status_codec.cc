#include "client/cpp/src/status_codec.h"

#include <optional>
#include <string>

#include "absl/strings/cord.h"
#include "client/cpp/src/text.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "theria/error_details.h"

namespace theria::client {
namespace {

constexpr std::string_view kTypeUrlPrefix = "type.googleapis.com/";
constexpr std::string_view kTensorMissing = "TENSOR_MISSING";
constexpr std::string_view kRegionMissing = "REGION_MISSING";

template <typename Detail>
std::string TypeUrl() {
  return Text(kTypeUrlPrefix, Detail::descriptor()->full_name());
}

template <typename Detail>
std::optional<Detail> DetailOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(TypeUrl<Detail>());
  Detail detail;
  if (!payload.has_value() || !detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

}  // namespace

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status converted(static_cast<absl::StatusCode>(status.error_code()),
                         status.error_message());
  google::rpc::Status details;
  if (details.ParseFromString(status.error_details())) {
    for (const google::protobuf::Any& detail : details.details()) {
      converted.SetPayload(detail.type_url(), absl::Cord(detail.value()));
    }
  }
  return converted;
}

absl::Status InvalidField(std::string_view field, std::string_view description) {
  google::rpc::BadRequest detail;
  google::rpc::BadRequest::FieldViolation& violation = *detail.add_field_violations();
  violation.set_field(std::string(field));
  violation.set_description(std::string(description));
  absl::Status status = absl::InvalidArgumentError(Text(field, ": ", description));
  status.SetPayload(TypeUrl<google::rpc::BadRequest>(), absl::Cord(detail.SerializeAsString()));
  return status;
}

absl::Status RegionLost(std::string_view reason) {
  google::rpc::PreconditionFailure detail;
  google::rpc::PreconditionFailure::Violation& violation = *detail.add_violations();
  violation.set_type(std::string(kRegionMissing));
  violation.set_subject("name");
  absl::Status status = absl::FailedPreconditionError(
      Text("the server does not share this region (", reason,
           "): its tensors stay and go by messages; Client::Share makes another region"));
  status.SetPayload(TypeUrl<google::rpc::PreconditionFailure>(),
                    absl::Cord(detail.SerializeAsString()));
  return status;
}

ErrorDetails DetailsOf(const absl::Status& status) {
  ErrorDetails details;
  if (const auto request = DetailOf<google::rpc::BadRequest>(status)) {
    for (const auto& violation : request->field_violations()) {
      details.field_violations.push_back({violation.field(), violation.description()});
    }
  }
  if (const auto failure = DetailOf<google::rpc::PreconditionFailure>(status)) {
    for (const auto& violation : failure->violations()) {
      if (violation.type() == kTensorMissing)
        details.missing_handles.push_back(violation.subject());
      if (violation.type() == kRegionMissing)
        details.missing_regions.push_back(violation.subject());
    }
  }
  if (const auto retry = DetailOf<google::rpc::RetryInfo>(status)) {
    details.retry_delay = absl::Seconds(retry->retry_delay().seconds()) +
                          absl::Nanoseconds(retry->retry_delay().nanos());
  }
  return details;
}

}  // namespace theria::client
