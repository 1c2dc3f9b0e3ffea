#ifndef THERIA_CLIENT_CPP_SRC_CONNECTION_H_
#define THERIA_CLIENT_CPP_SRC_CONNECTION_H_

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/src/payload.h"
#include "theria/client.h"
#include "theria/tensor.h"
#include "theria/v1/attention.pb.h"
#include "theria/v1/server.pb.h"
#include "theria/v1/shared_memory.pb.h"
#include "theria/v1/tensor_store.pb.h"

namespace theria::client {

// One call as the Connection sees it.
struct CallContext {
  absl::Time deadline = absl::InfiniteFuture();  // of all attempts together
  absl::Duration rpc_time;                       // set to what the last attempt took
  std::vector<Payload> payloads;                 // that one of the four operations' request lacks
  // Run before each attempt but the first, if set; an error ends the call.
  std::function<absl::Status()> before_retry;
};

// The calls of the wire contract, each complete with deadline and retries. Thread-safe.
//
// Errors: as the proto files say, details as payloads (theria/error_details.h); UNAVAILABLE after
// the last attempt.
class Connection {
 public:
  virtual ~Connection() = default;

  virtual absl::Status Forward(const v1::ForwardRequest& request, v1::ForwardResponse* response,
                               CallContext& call) = 0;
  virtual absl::Status Vjp(const v1::VjpRequest& request, v1::VjpResponse* response,
                           CallContext& call) = 0;
  virtual absl::Status Jvp(const v1::JvpRequest& request, v1::JvpResponse* response,
                           CallContext& call) = 0;
  virtual absl::Status Hvp(const v1::HvpRequest& request, v1::HvpResponse* response,
                           CallContext& call) = 0;

  // Sends `header`, then the elements in chunks unless the header says where they are. REQUIRES:
  // `tensor` is row-major.
  virtual absl::Status Upload(const v1::UploadHeader& header, const Tensor& tensor,
                              v1::UploadResponse* response, CallContext& call) = 0;
  virtual absl::StatusOr<Tensor> Download(const std::string& handle, CallContext& call) = 0;
  // Has the server write the elements to shared memory. REQUIRES: request.has_shared_memory().
  virtual absl::Status DownloadShared(const v1::DownloadRequest& request, CallContext& call) = 0;
  virtual absl::Status Stat(const v1::StatRequest& request, v1::StatResponse* response,
                            CallContext& call) = 0;
  virtual absl::Status List(const v1::ListRequest& request, v1::ListResponse* response,
                            CallContext& call) = 0;
  virtual absl::Status Renew(const v1::RenewRequest& request, v1::RenewResponse* response,
                             CallContext& call) = 0;
  virtual absl::Status Pin(const v1::PinRequest& request, v1::PinResponse* response,
                           CallContext& call) = 0;
  virtual absl::Status Unpin(const v1::UnpinRequest& request, v1::UnpinResponse* response,
                             CallContext& call) = 0;
  virtual absl::Status Delete(const v1::DeleteRequest& request, v1::DeleteResponse* response,
                              CallContext& call) = 0;

  virtual absl::Status CreateRegion(const v1::CreateRegionRequest& request,
                                    v1::RegionInfo* response, CallContext& call) = 0;
  virtual absl::Status RenewRegion(const v1::RenewRegionRequest& request, v1::RegionInfo* response,
                                   CallContext& call) = 0;
  virtual absl::Status DeleteRegion(const v1::DeleteRegionRequest& request,
                                    v1::DeleteRegionResponse* response, CallContext& call) = 0;

  virtual absl::Status GetServerInfo(const v1::GetServerInfoRequest& request,
                                     v1::GetServerInfoResponse* response, CallContext& call) = 0;
  virtual absl::Status RunBenchmark(const v1::RunBenchmarkRequest& request,
                                    v1::RunBenchmarkResponse* response, CallContext& call) = 0;

  virtual absl::StatusOr<Health> CheckHealth(const std::string& service, CallContext& call) = 0;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_CONNECTION_H_
