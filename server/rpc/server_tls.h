#ifndef THERIA_SERVER_RPC_SERVER_TLS_H_
#define THERIA_SERVER_RPC_SERVER_TLS_H_

#include <array>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "grpcpp/security/server_credentials.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "server/identity/read_file.h"
#include "server/rpc/published_file.h"
#include "server/telemetry/metric_registry.h"

// TLS of the listeners: 1.2 or newer, from PEM files that are read again when they change. gRPC
// would take whatever stands in them, also half of a pair, and then refuse every connection; here
// it sees only what was found good. Not thread-safe.
//
//   theria_tls_certificate_not_after_seconds{flag}    gauge, Unix time
//
// is when the first certificate of --tls-cert (--tls-client-ca) ends: of what serves, not of what
// was refused. Nothing in plain text.

namespace theria::server {

struct TlsFiles {
  std::string certificate;  // chain, the server's own first; empty: plain text
  std::string private_key;
  std::string client_ca;  // who signs the clients' certificates, which are then required; or empty
};

class ServerTls {
 public:
  // The registry must outlive this. Logs a warning for each certificate that has expired or does so
  // within a week. Errors: INVALID_ARGUMENT, naming the flag, if a file cannot be read or holds no
  // PEM of its kind, or the key is another certificate's; INTERNAL if there is no memory to keep
  // them in.
  static absl::StatusOr<std::unique_ptr<ServerTls>> Open(const TlsFiles& files,
                                                         MetricRegistry& registry);

  // Of the HOST:PORT listeners.
  const std::shared_ptr<grpc::ServerCredentials>& credentials() const { return credentials_; }

  // Reads the files again if one changed since the last time: new connections get what they hold
  // within a second or two. Returns whether it did. Errors: as Open's, once for each change; what
  // was good last then stays.
  absl::StatusOr<bool> Refresh();

 private:
  ServerTls(TlsFiles files, MetricRegistry& registry);
  absl::Status Load();

  const TlsFiles files_;
  prometheus::Family<prometheus::Gauge>& not_after_seconds_;
  std::array<FileVersion, 3> versions_;
  PublishedFile pair_;  // key and chain in one file, which are replaced together
  PublishedFile client_ca_;
  std::shared_ptr<grpc::ServerCredentials> credentials_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_SERVER_TLS_H_
