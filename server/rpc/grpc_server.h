#ifndef THERIA_SERVER_RPC_GRPC_SERVER_H_
#define THERIA_SERVER_RPC_GRPC_SERVER_H_

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "server/rpc/drain_gate.h"
#include "server/telemetry/rpc_metrics.h"

// The gRPC server around the services: listeners, limits, health (grpc.health.v1, Check and Watch,
// for "" and each service), reflection, the interceptor, and its end in order. Thread-safe.

namespace theria::server {

// HTTP/2 keepalive: pings that find connections whose other end is gone without a word.
struct KeepaliveOptions {
  absl::Duration interval;           // without a byte received, then the server pings; 0: never
  absl::Duration timeout;            // without an answer, then the connection is closed
  absl::Duration min_ping_interval;  // of clients' pings; more frequent ones end the connection
};

class GrpcServer {
 public:
  struct Options {
    std::vector<std::string> listen;  // HOST:PORT (0: a free one) or unix:PATH
    std::size_t max_message_bytes;    // of one request or response; at most 2^31 - 1
    std::size_t max_transport_bytes;  // what gRPC may hold in buffers for all connections
    bool channelz = false;
    absl::Duration max_connection_age;  // a client then connects anew, calls finish; 0: never
    KeepaliveOptions keepalive = {};
    // Of the HOST:PORT listeners, none: plain text. Sockets are guarded by their files'
    // permissions.
    std::shared_ptr<grpc::ServerCredentials> credentials;
  };

  // Starts to serve `services`. They, `metrics` and `gate` must outlive the server.
  // Errors: UNAVAILABLE, naming the address and the reason.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const Options& options, const std::vector<grpc::Service*>& services,
      const std::vector<std::string>& service_names, RpcMetrics& metrics, DrainGate& gate);

  // Ends what is left at once.
  ~GrpcServer();

  // As Options::listen, with the ports that were chosen.
  const std::vector<std::string>& addresses() const { return addresses_; }

  // Health answers NOT_SERVING from now on, watchers are told, new calls are refused.
  void StopServing();

  // Ends the listeners; waits for the calls under way at most until `deadline` of SteadyNow(), then
  // cancels them. REQUIRES: StopServing was called. Returns whether all calls ended by themselves.
  bool Shutdown(absl::Time deadline);

 private:
  GrpcServer(std::unique_ptr<grpc::Server> server, std::vector<std::string> addresses,
             DrainGate& gate);

  // Waits until clients have stopped to send calls, which get UNAVAILABLE, for a moment at most.
  void AwaitQuiet() const;

  std::unique_ptr<grpc::Server> server_;
  const std::vector<std::string> addresses_;
  DrainGate& gate_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_GRPC_SERVER_H_
