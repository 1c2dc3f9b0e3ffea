#ifndef THERIA_CLIENT_CPP_SRC_GRPC_CONNECTION_H_
#define THERIA_CLIENT_CPP_SRC_GRPC_CONNECTION_H_

#include <memory>
#include <string>
#include <string_view>

#include "client/cpp/src/connect_failure.h"
#include "client/cpp/src/connection.h"
#include "client/cpp/src/identity.h"
#include "client/cpp/src/retry.h"
#include "grpcpp/channel.h"
#include "theria/v1/server.grpc.pb.h"
#include "theria/v1/shared_memory.grpc.pb.h"
#include "theria/v1/tensor_store.grpc.pb.h"

namespace theria::client {

// The stubs of the services; a test puts mocks in their place.
struct Stubs {
  std::unique_ptr<v1::TensorService::StubInterface> tensors;
  std::unique_ptr<v1::SharedMemoryService::StubInterface> shared_memory;
  std::unique_ptr<v1::ServerService::StubInterface> server;
  std::shared_ptr<grpc::Channel>
      channel;  // for health checks and calls whose messages carry elements
  std::shared_ptr<CallMetadata> metadata;  // of every call; may be null
  absl::Status usable;                     // else what every call ends with
  Endpoint endpoint;                       // for messages
};

// Does not wait for the server; options that cannot be are the error of each call. Messages of any
// size pass: the server's limits are the only ones.
Stubs Connect(const std::string& target, const ClientOptions& options);

// A Connection over gRPC: each attempt under the call's deadline, attempts repeated by a Retrier.
class GrpcConnection : public Connection {
 public:
  GrpcConnection(Stubs stubs, const RetryPolicy& retry, RetryClock clock = {});

  absl::Status Forward(const v1::ForwardRequest& request, v1::ForwardResponse* response,
                       CallContext& call) override;
  absl::Status Vjp(const v1::VjpRequest& request, v1::VjpResponse* response,
                   CallContext& call) override;
  absl::Status Jvp(const v1::JvpRequest& request, v1::JvpResponse* response,
                   CallContext& call) override;
  absl::Status Hvp(const v1::HvpRequest& request, v1::HvpResponse* response,
                   CallContext& call) override;
  absl::Status Upload(const v1::UploadHeader& header, const Tensor& tensor,
                      v1::UploadResponse* response, CallContext& call) override;
  absl::StatusOr<Tensor> Download(const std::string& handle, CallContext& call) override;
  absl::Status DownloadShared(const v1::DownloadRequest& request, CallContext& call) override;
  absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response,
                    CallContext& call) override;
  absl::Status List(const v1::ListRequest& request, v1::ListResponse* response,
                    CallContext& call) override;
  absl::Status Renew(const v1::RenewRequest& request, v1::RenewResponse* response,
                     CallContext& call) override;
  absl::Status Pin(const v1::PinRequest& request, v1::PinResponse* response,
                   CallContext& call) override;
  absl::Status Unpin(const v1::UnpinRequest& request, v1::UnpinResponse* response,
                     CallContext& call) override;
  absl::Status Delete(const v1::DeleteRequest& request, v1::DeleteResponse* response,
                      CallContext& call) override;
  absl::Status CreateRegion(const v1::CreateRegionRequest& request, v1::RegionInfo* response,
                            CallContext& call) override;
  absl::Status RenewRegion(const v1::RenewRegionRequest& request, v1::RegionInfo* response,
                           CallContext& call) override;
  absl::Status DeleteRegion(const v1::DeleteRegionRequest& request,
                            v1::DeleteRegionResponse* response, CallContext& call) override;
  absl::Status GetServerInfo(const v1::GetServerInfoRequest& request,
                             v1::GetServerInfoResponse* response, CallContext& call) override;
  absl::Status RunBenchmark(const v1::RunBenchmarkRequest& request,
                            v1::RunBenchmarkResponse* response, CallContext& call) override;
  absl::StatusOr<Health> CheckHealth(const std::string& service, CallContext& call) override;

 private:
  // Runs `attempt`, a function of a fresh grpc::ClientContext*, until it succeeds or may not be
  // repeated.
  template <typename Function>
  absl::Status Call(CallContext& call, Function attempt);

  // The outcome of an RPC that ended with `status`.
  Attempt Explain(absl::Status status) const;

  // Calls a method of the AttentionService with the request and call.payloads.
  template <typename Request, typename Response>
  absl::Status CallAttention(std::string_view method, const Request& request, Response* response,
                             CallContext& call);

  const Stubs stubs_;
  Retrier retrier_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_GRPC_CONNECTION_H_
