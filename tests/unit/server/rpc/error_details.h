#ifndef THERIA_TESTS_UNIT_SERVER_RPC_ERROR_DETAILS_H_
#define THERIA_TESTS_UNIT_SERVER_RPC_ERROR_DETAILS_H_

#include <optional>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

// Reads the details of google.rpc that a grpc::Status carries.

namespace theria::server {

template <typename Detail>
std::optional<Detail> DetailOf(const grpc::Status& status) {
  google::rpc::Status details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& any : details.details()) {
    if (Detail detail; any.UnpackTo(&detail)) return detail;
  }
  return std::nullopt;
}

// The field of the only violation of a BadRequest, or empty.
inline std::string FieldAtFault(const grpc::Status& status) {
  const auto bad_request = DetailOf<google::rpc::BadRequest>(status);
  if (!bad_request.has_value() || bad_request->field_violations_size() != 1) return "";
  return bad_request->field_violations(0).field();
}

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_RPC_ERROR_DETAILS_H_
