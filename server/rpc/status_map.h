#ifndef THERIA_SERVER_RPC_STATUS_MAP_H_
#define THERIA_SERVER_RPC_STATUS_MAP_H_

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "grpcpp/support/status.h"

// The border between absl::Status, which everything inside the server speaks, and grpc::Status with
// the details of google.rpc. The only place where one becomes the other. Thread-safe.

namespace theria::server {

// FAILED_PRECONDITION: none of these handles names a tensor of the tenant. Ordered, no duplicates.
// Becomes one PreconditionFailure violation of type TENSOR_MISSING for each.
// REQUIRES: not empty.
absl::Status TensorsMissing(absl::Span<const std::string> handles);

// FAILED_PRECONDITION: `field` names no region of memory that the tenant shares. Becomes one
// PreconditionFailure violation of type REGION_MISSING, whose subject is the field.
absl::Status RegionMissing(std::string_view field);

// The handles that TensorsMissing recorded; empty for any other status.
std::vector<std::string> MissingTensorsOf(const absl::Status& status);

// The same code and message; `error_details` holds a serialised google.rpc.Status (gRPC sends it as
// grpc-status-details-bin) with
//
//   BadRequest           for InvalidField (kernels/api/attention.h)
//   PreconditionFailure  for TensorsMissing, RegionMissing
//   RetryInfo            for ExhaustedRetryAfter (server/engine/retry_after.h)
//
// and is empty where there is nothing to tell beyond the message. Every RESOURCE_EXHAUSTED but
// ExhaustedForGood gets a RetryInfo, of a second where nobody gave a better one. Long messages and
// handles are cut to what fits in a header.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_STATUS_MAP_H_
