#ifndef THERIA_TESTS_UNIT_CLIENT_CPP_MISSING_H_
#define THERIA_TESTS_UNIT_CLIENT_CPP_MISSING_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cpp/src/status_codec.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace theria::client {

// What a server answers that has lost these: violations of one type.
inline absl::Status MissingStatus(const std::string& type,
                                  const std::vector<std::string>& subjects) {
  google::rpc::PreconditionFailure detail;
  for (const std::string& subject : subjects) {
    auto* violation = detail.add_violations();
    violation->set_type(type);
    violation->set_subject(subject);
  }
  google::rpc::Status details;
  details.add_details()->PackFrom(detail);
  return FromGrpcStatus(
      {grpc::StatusCode::FAILED_PRECONDITION, "missing", details.SerializeAsString()});
}

}  // namespace theria::client

#endif  // THERIA_TESTS_UNIT_CLIENT_CPP_MISSING_H_
