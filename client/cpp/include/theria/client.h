#ifndef THERIA_CLIENT_H_
#define THERIA_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "theria/attention.h"
#include "theria/error_details.h"
#include "theria/resident_tensor.h"
#include "theria/server_info.h"
#include "theria/shared_region.h"
#include "theria/tensor.h"

// The client of a theria server.
//
//     theria::client::Client client("localhost:50051");
//     auto q = Tensor::FromValues(values, {1, 8, 128, 64});  // k and v likewise
//     auto result = client.Forward({.q = q, .k = k, .v = v, .options = {.is_causal = true}});
//     if (!result.ok()) return result.status();
//     absl::Span<const float> o = result->o.local().values<float>();

namespace theria::client {

// When to try a call again. UNAVAILABLE is retried: the server is not there yet, restarts or
// drains. The wait before attempt n + 1 is min(max_backoff, initial_backoff * multiplier^(n - 1)),
// shortened by up to `jitter` of itself at random, and never past the deadline. With the defaults a
// call gives up after 0.75 s at most, whatever its timeout.
struct RetryPolicy {
  int max_attempts = 5;  // 1: never retry
  absl::Duration initial_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);
  double multiplier = 2.0;
  double jitter = 0.2;  // in [0, 1]
  // How often one call waits as long as a RESOURCE_EXHAUSTED says (ErrorDetails::retry_delay) to
  // try again, if that is before the deadline; 0: the caller is to decide.
  int max_refusals = 0;
};

// An encrypted connection, from PEM files that are read when the client is made.
struct TlsOptions {
  std::string ca_file;      // who signs servers' certificates; empty: gRPC's own list
  std::string cert_file;    // the client's certificate chain, where the server asks for one (mTLS)
  std::string key_file;     // the key of cert_file
  std::string server_name;  // that the server's certificate must have; empty: the target's host
};

// HTTP/2 keepalive: pings that find a connection whose other end is gone without a word, such as
// behind a dead link or a firewall that forgot it. Pings do not limit how long a call may take: a
// server answers them while it computes.
struct KeepaliveOptions {
  absl::Duration interval = absl::Seconds(30);  // without a byte received; at least 1 s
  absl::Duration timeout = absl::Seconds(20);   // for the answer; then calls get UNAVAILABLE
  bool without_calls = false;                   // whether to ping between calls as well
};

// Rank of a call among those of its tenant that wait.
enum class Priority : std::uint8_t { kHigh, kNormal, kLow };

struct ClientOptions {
  // For each call, unless CallOptions::timeout says otherwise.
  absl::Duration timeout = absl::InfiniteDuration();
  RetryPolicy retry;
  // Whether to use one TCP connection together with the process's other clients of the same server
  // that say so too.
  bool share_connection = false;
  // For each attempt to connect, TLS handshake included. A call that finds no connection in that
  // time fails with UNAVAILABLE and is not retried. Positive.
  absl::Duration connect_timeout = absl::Seconds(5);
  std::optional<KeepaliveOptions> keepalive = KeepaliveOptions{};  // none: no pings
  std::optional<TlsOptions> tls;                                   // none: plain text
  // Bearer token that proves the tenant: one line of printable ASCII without spaces. Empty: none.
  std::string token;
  std::string token_file;  // file of that token, read again whenever it changes
  Priority priority = Priority::kNormal;
};

struct PutOptions {
  absl::Duration ttl;  // lease; zero: the server's default
  absl::Duration pin;  // pinned from the start for so long; zero: not pinned
  // Lets the server recognise a tensor that it already has, by the SHA-256 of its elements; then
  // nothing is transferred.
  bool content_addressed = false;
  // Whether to keep the local tensor (its elements are shared, not copied), so that the client can
  // upload it again should the server lose it. Default: whether it owns its elements and these are
  // not in shared memory, whose room is scarce.
  std::optional<bool> retain_source;
};

enum class Health : std::uint8_t { kServing, kNotServing, kServiceUnknown };

// Calls a server and converts between tensors and messages.
//
// Thread-safe; each call blocks until it is done. Any number of clients may exist; each has a
// connection of its own unless ClientOptions says otherwise. Construction does not wait for the
// server: the first call connects. A server that cannot be reached is UNAVAILABLE, with a message
// that names the target and the likely cause; causes that do not pass, such as TLS on one side
// only, are not retried.
//
// A call that fails because resident tensors are gone uploads again those that Put of this client
// retained, once, and repeats itself; if others are gone too, FAILED_PRECONDITION names them
// (ErrorDetails::missing_handles). One that fails because shared memory is gone goes by messages.
//
// Errors of every call: UNAVAILABLE after the last attempt, DEADLINE_EXCEEDED, UNAUTHENTICATED,
// INVALID_ARGUMENT for a file of the options that cannot be read or does not hold what it should
// (a token, PEM) or a duration out of range, and those named in Attention::Run for the server's own
// reasons.
class Client : public Attention {
 public:
  // `target` is host:port ([::1]:50051 for IPv6) or unix:PATH, or another of gRPC's names of
  // servers, such as dns:///host:port. One without a port, or with one over 65535, is each call's
  // INVALID_ARGUMENT: there is no default.
  explicit Client(const std::string& target, const ClientOptions& options = {});
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client() override;

  // Local tensors of one request may have 2 GiB less 1 MiB together, and no more than the server
  // takes (ServerLimits::max_message_bytes); larger ones go by Put.
  absl::StatusOr<AttentionResult> Run(Operation operation, const AttentionRequest& request,
                                      const CallOptions& call = {}) override;

  // Uploads, in chunks, whatever the size: elements that `tensor` owns from where they are, others
  // by way of a copy. Nobody can refer to the tensor before it is complete.
  // Errors: RESOURCE_EXHAUSTED with a retry delay; INVALID_ARGUMENT for durations out of range.
  absl::StatusOr<ResidentTensor> Put(const Tensor& tensor, const PutOptions& options = {},
                                     const CallOptions& call = {});

  // Downloads, in chunks. The result is row-major and owns its elements.
  absl::StatusOr<Tensor> Get(const ResidentTensor& tensor, const CallOptions& call = {});

  // As above, into shared memory. Errors: RESOURCE_EXHAUSTED without room in `region`.
  absl::StatusOr<Tensor> Get(const ResidentTensor& tensor, const SharedRegion& region,
                             const CallOptions& call = {});

  // Makes a region of shared memory, zeros at first, for which the server must be on this host
  // (ServerInfo::shared_memory) and its socket within reach. The lease, `ttl` or the server's
  // default if that is zero, begins anew with each use.
  // Errors: UNIMPLEMENTED: the server shares no memory; UNAVAILABLE: it is on another host, or its
  // socket cannot be reached; INVALID_ARGUMENT for a size or ttl out of range; RESOURCE_EXHAUSTED
  // with a retry delay: the server shares no more.
  absl::StatusOr<SharedRegion> Share(std::size_t size_bytes,
                                     absl::Duration ttl = absl::ZeroDuration(),
                                     const CallOptions& call = {});

  // Begins the region's lease anew; zero: as long as before. How long it lasts from now. Errors:
  // FAILED_PRECONDITION if the server has it no more, or shares no memory any more
  // (ErrorDetails::missing_regions).
  absl::StatusOr<absl::Duration> Renew(const SharedRegion& region, absl::Duration ttl,
                                       const CallOptions& call = {});

  // Ends the server's part in the region. Calls under way that use it finish; tensors in it stay,
  // and go by messages. Errors: as Renew.
  absl::Status Unshare(const SharedRegion& region, const CallOptions& call = {});

  // Refers to a tensor that somebody of the same tenant put there, by its handle.
  absl::StatusOr<ResidentTensor> Attach(const std::string& handle, const CallOptions& call = {});

  absl::StatusOr<TensorInfo> Stat(const ResidentTensor& tensor, const CallOptions& call = {});

  // All tensors of the tenant, oldest first.
  absl::StatusOr<std::vector<TensorInfo>> List(const CallOptions& call = {});

  // Sets the lease to end `ttl` from now; zero: the server's default.
  absl::StatusOr<TensorInfo> Renew(const ResidentTensor& tensor, absl::Duration ttl,
                                   const CallOptions& call = {});

  // Protects from eviction and lease end for at most `pin`; zero: the server's default.
  absl::StatusOr<TensorInfo> Pin(const ResidentTensor& tensor, absl::Duration pin,
                                 const CallOptions& call = {});
  absl::StatusOr<TensorInfo> Unpin(const ResidentTensor& tensor, const CallOptions& call = {});

  // Deletes the tensor and forgets its retained source, which stays if the server did not delete:
  // for want of an answer, or because the tensor is another tenant's. Errors: FAILED_PRECONDITION
  // with DetailsOf(status).missing_handles if it is gone already, or another tenant's.
  absl::Status Delete(const ResidentTensor& tensor, const CallOptions& call = {});

  absl::StatusOr<ServerInfo> GetServerInfo(const CallOptions& call = {});

  // Times a kernel on the server. Errors: as Run; INVALID_ARGUMENT for too many repetitions.
  absl::StatusOr<BenchmarkResult> RunBenchmark(const BenchmarkRequest& request,
                                               const CallOptions& call = {});

  // Whether the server as a whole (empty name) or one of its services accepts calls.
  absl::StatusOr<Health> CheckHealth(const std::string& service = "", const CallOptions& call = {});

  // Made by the library's own tests over a connection of theirs.
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_H_
