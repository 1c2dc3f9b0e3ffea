#ifndef THERIA_SERVER_RPC_SERVER_TLS_H_
#define THERIA_SERVER_RPC_SERVER_TLS_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"

// TLS of the listeners: 1.2 or newer, from PEM files that are read again when they change.

namespace theria::server {

struct TlsFiles {
  std::string certificate;  // chain, the server's own first; empty: plain text
  std::string private_key;
  std::string client_ca;  // who signs the clients' certificates, which are then required; or empty
};

// Whole files are to be replaced, certificate and key together (a symbolic link to their folder, as
// Kubernetes does it); new connections get the new ones within a second or two.
// Errors: INVALID_ARGUMENT, naming the flag, if a file holds no PEM of its kind now, or the key is
// another certificate's.
absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeServerCredentials(
    const TlsFiles& files);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_SERVER_TLS_H_
