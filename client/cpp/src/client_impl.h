#ifndef THERIA_CLIENT_CPP_SRC_CLIENT_IMPL_H_
#define THERIA_CLIENT_CPP_SRC_CLIENT_IMPL_H_

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/src/connection.h"
#include "theria/client.h"

namespace theria::client {

// What a Client is made of: a Connection, and the uploads anew.
class Client::Impl {
 public:
  Impl(std::unique_ptr<Connection> connection, absl::Duration timeout)
      : connection_(std::move(connection)), timeout_(timeout) {}

  Connection& connection() { return *connection_; }

  // The call's deadline, from now on.
  CallContext Begin(const CallOptions& call) const;

  // Encodes, calls `method` of the Connection and decodes, uploading lost tensors anew once.
  template <typename Request, typename Response>
  absl::StatusOr<AttentionResult> Run(absl::Status (Connection::*method)(const Request&, Response*,
                                                                         CallContext&),
                                      const AttentionRequest& request, const CallOptions& options);

  absl::StatusOr<TensorInfo> Upload(const Tensor& tensor, const PutOptions& options,
                                    CallContext& call);

  // Repeats `attempt` once if it fails because tensors of `used` are gone and all the missing ones
  // could be uploaded anew.
  absl::Status WithUploadAnew(const std::vector<ResidentTensor>& used, CallContext& call,
                              const std::function<absl::Status()>& attempt);

 private:
  // Whether `missing_handle` was this tensor's and the tensor now has another.
  bool UploadAnew(const ResidentTensor& tensor, const std::string& missing_handle,
                  CallContext& call);

  std::unique_ptr<Connection> connection_;
  absl::Duration timeout_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_CLIENT_IMPL_H_
