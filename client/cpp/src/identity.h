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

// As `options.tls` says. Errors: INVALID_ARGUMENT, naming option and file: it cannot be read or
// holds no PEM of its kind, or one of certificate and key is missing.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeChannelCredentials(
    const ClientOptions& options);

// The metadata that says on whose behalf, and how urgently, a call is made. Thread-safe.
class CallMetadata {
 public:
  explicit CallMetadata(const ClientOptions& options);

  // Adds it to a call. Errors: INVALID_ARGUMENT: the token file cannot be read, or what is given is
  // no token; says nothing of its content.
  absl::Status AddTo(grpc::ClientContext& context);

 private:
  // Reads the token file if it changed.
  absl::Status Refresh();

  const std::string token_file_;
  const Priority priority_;
  std::mutex mutex_;
  absl::StatusOr<std::string> token_;                             // empty: none
  std::int64_t inode_ = -1, size_bytes_ = -1, nanoseconds_ = -1;  // of the file that was read
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_IDENTITY_H_
