#ifndef THERIA_SERVER_RPC_GRPC_LOG_H_
#define THERIA_SERVER_RPC_GRPC_LOG_H_

// What gRPC has to say, in our log.

namespace theria::server {

// From now on gRPC's own lines are ours, `event=grpc`, of our format and level. What gRPC calls an
// error is mostly what a peer did: a warning here.
void RedirectGrpcLog();

// Whether a listener accepts no more. gRPC 1.51 closes one for good once accept fails, as it does
// for want of descriptors, and tells it to its log alone. REQUIRES: RedirectGrpcLog was called.
bool HasListenerFailed();

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_GRPC_LOG_H_
