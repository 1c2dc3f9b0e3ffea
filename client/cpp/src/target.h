#ifndef THERIA_CLIENT_CPP_SRC_TARGET_H_
#define THERIA_CLIENT_CPP_SRC_TARGET_H_

#include <string>

#include "absl/status/status.h"

namespace theria::client {

// Whether every address in `target`, a name of servers as gRPC takes it, has a port; sockets and
// xds have none. gRPC would take 443 for one that is missing and wait there, and a port modulo
// 65536. Errors: INVALID_ARGUMENT, field "target".
// https://github.com/grpc/grpc/blob/master/doc/naming.md
absl::Status CheckTarget(const std::string& target);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_TARGET_H_
