#ifndef THERIA_CLIENT_CPP_SRC_CONNECT_FAILURE_H_
#define THERIA_CLIENT_CPP_SRC_CONNECT_FAILURE_H_

#include <optional>
#include <string>

#include "absl/time/time.h"

namespace theria::client {

// What a client connects to, and how.
struct Endpoint {
  std::string target;
  bool uses_tls = false;
  absl::Duration connect_timeout;
  absl::Duration keepalive_timeout;
};

// Why a connection was not made or was lost.
struct ConnectFailure {
  std::string message;    // names the target and the likely cause; ends with gRPC's own reason
  bool is_final = false;  // trying again would take as long or fail the same way
};

// Explains the message of gRPC's UNAVAILABLE. None if it is not about the connection: the server
// sent it.
std::optional<ConnectFailure> ExplainConnectFailure(const Endpoint& endpoint,
                                                    const std::string& grpc_message);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_CONNECT_FAILURE_H_
