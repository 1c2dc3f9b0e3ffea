#ifndef THERIA_CLIENT_CPP_SRC_CLIENT_IMPL_H_
#define THERIA_CLIENT_CPP_SRC_CLIENT_IMPL_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/src/connection.h"
#include "client/cpp/src/shared_region_state.h"
#include "client/cpp/src/shared_regions.h"
#include "theria/client.h"

namespace theria::client {

// What a Client is made of: a Connection, the shared memory, and what repairs a call.
class Client::Impl {
 public:
  Impl(std::unique_ptr<Connection> connection, absl::Duration timeout)
      : connection_(std::move(connection)), timeout_(timeout) {}

  Connection& connection() { return *connection_; }
  std::weak_ptr<const Connection> owner() const { return connection_; }
  SharedRegions& regions() { return regions_; }

  // The call's deadline, from now on.
  CallContext Begin(const CallOptions& call) const;

  // Encodes, calls `method` of the Connection and decodes, repaired if need be.
  template <typename Request, typename Response>
  absl::StatusOr<AttentionResult> Run(Operation operation,
                                      absl::Status (Connection::*method)(const Request&, Response*,
                                                                         CallContext&),
                                      const AttentionRequest& request, const CallOptions& options);

  absl::StatusOr<TensorInfo> Upload(const Tensor& tensor, const PutOptions& options,
                                    CallContext& call);

  absl::StatusOr<Tensor> Download(const ResidentTensor& tensor, const SharedRegion* region,
                                  CallContext& call);

  absl::Status Delete(const ResidentTensor& tensor, CallContext& call);

  absl::StatusOr<SharedRegion> Share(std::size_t size_bytes, absl::Duration ttl, CallContext& call);
  absl::StatusOr<absl::Duration> Renew(SharedRegion::State& region, absl::Duration ttl,
                                       CallContext& call);
  absl::Status Unshare(SharedRegion::State& region, CallContext& call);

 private:
  // Repeats `attempt` once if it fails because tensors of `used` are gone and all the missing ones
  // (which this client put) could be uploaded anew, and once if it fails because the server has
  // lost shared memory, or shares none any more; regions() then no longer has what is lost.
  absl::Status WithRepair(const std::vector<ResidentTensor>& used, CallContext& call,
                          absl::FunctionRef<absl::Status()> attempt);
  absl::Status WithUploadAnew(const std::vector<ResidentTensor>& used, CallContext& call,
                              absl::FunctionRef<absl::Status()> attempt);
  absl::Status WithoutLostRegions(CallContext& call, absl::FunctionRef<absl::Status()> attempt);

  // The status of a call about `region` alone. Where the server has no such region, or shares
  // nothing, it is lost from then on, and the status RegionLost.
  static absl::Status OfRegion(SharedRegion::State& region, const absl::Status& status);

  // Runs `send` after `take` has found room in shared memory for what it brings (null: nothing goes
  // there), and finds other room for each retry. Room that the server may still write to is not
  // used again.
  static absl::Status InRoom(std::shared_ptr<SharedRoom>& room, CallContext& call,
                             absl::FunctionRef<absl::StatusOr<std::shared_ptr<SharedRoom>>()> take,
                             absl::FunctionRef<absl::Status()> send);

  // Whether `missing_handle` was this tensor's and the tensor now has another.
  bool UploadAnew(const ResidentTensor& tensor, const std::string& missing_handle,
                  CallContext& call);

  const std::shared_ptr<Connection> connection_;
  absl::Duration timeout_;
  SharedRegions regions_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_CLIENT_IMPL_H_
