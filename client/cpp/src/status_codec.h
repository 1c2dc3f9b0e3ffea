#ifndef THERIA_CLIENT_CPP_SRC_STATUS_CODEC_H_
#define THERIA_CLIENT_CPP_SRC_STATUS_CODEC_H_

#include <string_view>

#include "absl/status/status.h"
#include "grpcpp/support/status.h"

// The one place where errors of gRPC become those of the library.

namespace theria::client {

// Keeps code and message; the google.rpc details become payloads under their type URLs.
absl::Status FromGrpcStatus(const grpc::Status& status);

// An INVALID_ARGUMENT as the server would give it: a google.rpc.BadRequest that names `field`.
absl::Status InvalidField(std::string_view field, std::string_view description);

// A FAILED_PRECONDITION as the server would give it: a google.rpc.PreconditionFailure of type
// REGION_MISSING. Says what to do beside `reason`.
absl::Status RegionLost(std::string_view reason);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_STATUS_CODEC_H_
