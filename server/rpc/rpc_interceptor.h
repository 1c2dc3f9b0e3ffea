#ifndef THERIA_SERVER_RPC_RPC_INTERCEPTOR_H_
#define THERIA_SERVER_RPC_RPC_INTERCEPTOR_H_

#include <memory>

#include "grpcpp/support/server_interceptor.h"
#include "server/rpc/drain_gate.h"
#include "server/telemetry/rpc_metrics.h"

// The one place that sees every RPC of every service, health and reflection included: counts and
// times it, gives the client its id as the initial metadata `theria-request-id`, writes the log
// line, with the trace that a `traceparent` of
// the call names, and turns request bytes that are no message into INVALID_ARGUMENT.

namespace theria::server {

// `metrics` and `gate` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRpcInterceptorFactory(
    RpcMetrics& metrics, DrainGate& gate);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_RPC_INTERCEPTOR_H_
