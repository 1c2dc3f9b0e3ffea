#ifndef THERIA_CLIENT_CPP_SRC_IDENTITY_H_
#define THERIA_CLIENT_CPP_SRC_IDENTITY_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/client_context.h"
#include "grpcpp/security/credentials.h"
#include "theria/client.h"

namespace theria::client {

// As `options.tls` says. Errors: INVALID_ARGUMENT, naming a file that cannot be read.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientOptions& options);

// The metadata that says on whose behalf, and how urgently, a call is made. Thread-safe.
class CallMetadata {
 public:
  explicit CallMetadata(const ClientOptions& options);

  // Adds it to a call. Errors: INVALID_ARGUMENT: the token file cannot be read.
  absl::Status AddTo(grpc::ClientContext& context);

 private:
  // Reads the token file if it changed.
  absl::Status Refresh();

  const std::string token_file_;
  const Priority priority_;
  std::mutex mutex_;
  std::string token_;
  std::int64_t inode_ = -1, size_bytes_ = -1, nanoseconds_ = -1;  // of the file that was read
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_IDENTITY_H_
