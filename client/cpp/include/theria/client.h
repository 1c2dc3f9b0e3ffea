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

// The client of a Theria server.
//
//     theria::client::Client client("localhost:50051");
//     auto q = Tensor::FromValues(values, {1, 8, 128, 64});  // k and v likewise
//     auto result = client.Forward({.q = q, .k = k, .v = v, .options = {.is_causal = true}});
//     if (!result.ok()) return result.status();
//     absl::Span<const float> o = result->o.local().values<float>();

namespace theria::client {

// When to retry a call. Only UNAVAILABLE is retried: the server is starting, restarting or
// draining. The wait before attempt n + 1 is
//
//     min(max_backoff, initial_backoff * multiplier^(n - 1)),
//
// shortened at random by up to the fraction `jitter`. It never exceeds the deadline. With the
// defaults, a call fails after at most 0.75 s, even if its timeout is longer.
struct RetryPolicy {
  int max_attempts = 5;  // 1: never retry
  absl::Duration initial_backoff = absl::Milliseconds(50);
  absl::Duration max_backoff = absl::Seconds(2);
  double multiplier = 2.0;
  double jitter = 0.2;  // in [0, 1]
  // How often one call is retried after the delay in a RESOURCE_EXHAUSTED
  // (ErrorDetails::retry_delay), if that is before the deadline. 0: never.
  int max_refusals = 0;
};

// TLS, configured by PEM files that are read when the client is constructed.
struct TlsOptions {
  std::string ca_file;      // authorities of server certificates; empty: gRPC's default list
  std::string cert_file;    // the client's certificate chain, if the server requires one (mTLS)
  std::string key_file;     // the key of cert_file
  std::string server_name;  // expected in the server's certificate; empty: the target's host
};

// HTTP/2 keepalive: pings that detect a dead connection, for example after a link failure or behind
// a firewall that dropped its state. Pings do not limit how long a call may take: the server
// responds to them while it computes.
struct KeepaliveOptions {
  absl::Duration interval = absl::Seconds(30);  // idle time before a ping; at least 1 s
  absl::Duration timeout = absl::Seconds(20);   // for the response; calls then get UNAVAILABLE
  bool without_calls = false;                   // whether to ping between calls as well
};

// The order of a call among the waiting calls of its tenant.
enum class Priority : std::uint8_t { kHigh, kNormal, kLow };

struct ClientOptions {
  // For each call that does not set CallOptions::timeout.
  absl::Duration timeout = absl::InfiniteDuration();
  RetryPolicy retry;
  // Whether to share one TCP connection with the other clients of the same server in this process
  // that also set this.
  bool share_connection = false;
  // For each attempt to connect, including the TLS handshake. A call that cannot connect in that
  // time fails with UNAVAILABLE and is not retried. Positive.
  absl::Duration connect_timeout = absl::Seconds(5);
  std::optional<KeepaliveOptions> keepalive = KeepaliveOptions{};  // none: no pings
  std::optional<TlsOptions> tls;                                   // none: not encrypted
  // Bearer token of the tenant: one line of printable ASCII without spaces. Empty: none.
  std::string token;
  std::string token_file;  // file that contains the token; reread when it changes
  Priority priority = Priority::kNormal;
};

struct PutOptions {
  absl::Duration ttl;  // lease; zero: the server's default
  absl::Duration pin;  // pin from the start, for this long; zero: not pinned
  // Sends the SHA-256 of the elements first, so that nothing is transferred if the server already
  // has the tensor.
  bool content_addressed = false;
  // Whether to keep the local tensor (its elements are shared, not copied), so that the client can
  // upload it again if the server loses it. Default: true if the tensor owns its elements and they
  // are not in shared memory, where space is limited.
  std::optional<bool> retain_source;
};

enum class Health : std::uint8_t { kServing, kNotServing, kServiceUnknown };

// Calls a server and converts between tensors and messages.
//
// Thread-safe. Each call blocks until it has finished. Any number of clients may exist, each with
// its own connection unless ClientOptions::share_connection is set. The constructor does not
// connect; the first call does. If the server is unreachable, calls fail with UNAVAILABLE and a
// message that names the target and the likely cause. Permanent causes, such as TLS on only one
// side, are not retried.
//
// If a call fails because the server has lost resident tensors, the client uploads again those
// that its own Put retained, and repeats the call once. If other tensors are missing too,
// FAILED_PRECONDITION names them (ErrorDetails::missing_handles). If a call fails because the
// server has lost shared memory, the client sends the tensors in messages instead.
//
// Errors of every call: UNAVAILABLE after the last attempt, DEADLINE_EXCEEDED, UNAUTHENTICATED,
// INVALID_ARGUMENT for a file of the options that cannot be read or has the wrong content (token,
// PEM) or for a duration out of range, and the server's errors as documented at Attention::Run.
class Client : public Attention {
 public:
  // `target` is host:port ([::1]:50051 for IPv6), unix:PATH, or another gRPC target name, such as
  // dns:///host:port. There is no default port. If the port is missing or above 65535, every call
  // fails with INVALID_ARGUMENT.
  explicit Client(const std::string& target, const ClientOptions& options = {});
  Client(Client&&) noexcept;
  Client& operator=(Client&&) noexcept;
  ~Client() override;

  // The local tensors of one request may have up to 2 GiB - 1 MiB in total, and at most the
  // server's ServerLimits::max_message_bytes. Use Put for larger tensors.
  absl::StatusOr<AttentionResult> Run(Operation operation, const AttentionRequest& request,
                                      const CallOptions& call = {}) override;

  // Uploads a tensor of any size in chunks. Elements that `tensor` owns are sent without a copy,
  // borrowed elements are copied. The tensor becomes visible only when it is complete.
  // Errors: RESOURCE_EXHAUSTED with a retry delay; INVALID_ARGUMENT for durations out of range.
  absl::StatusOr<ResidentTensor> Put(const Tensor& tensor, const PutOptions& options = {},
                                     const CallOptions& call = {});

  // Downloads a tensor in chunks. The result is row-major and owns its elements.
  absl::StatusOr<Tensor> Get(const ResidentTensor& tensor, const CallOptions& call = {});

  // As above, into shared memory. Errors: RESOURCE_EXHAUSTED if `region` has no space left.
  absl::StatusOr<Tensor> Get(const ResidentTensor& tensor, const SharedRegion& region,
                             const CallOptions& call = {});

  // Creates a zero-filled region of shared memory. The server must be on this host and share memory
  // (ServerInfo::shared_memory), and its socket must be accessible. The lease is `ttl`, or the
  // server's default if that is zero. Each use restarts it.
  //
  // Errors: UNIMPLEMENTED: the server shares no memory; UNAVAILABLE: it is on another host, or its
  // socket is not accessible; INVALID_ARGUMENT for a size or ttl out of range; RESOURCE_EXHAUSTED
  // with a retry delay: the server's shared memory is used up.
  absl::StatusOr<SharedRegion> Share(std::size_t size_bytes,
                                     absl::Duration ttl = absl::ZeroDuration(),
                                     const CallOptions& call = {});

  // Restarts the region's lease and returns its length; zero: unchanged. Errors:
  // FAILED_PRECONDITION (ErrorDetails::missing_regions) if the server no longer has the region or
  // no longer shares memory.
  absl::StatusOr<absl::Duration> Renew(const SharedRegion& region, absl::Duration ttl,
                                       const CallOptions& call = {});

  // Releases the region on the server. Calls in progress finish. Tensors in the region stay valid
  // and are sent in messages from then on. Errors: as for Renew.
  absl::Status Unshare(const SharedRegion& region, const CallOptions& call = {});

  // Refers to a tensor of the same tenant by its handle.
  absl::StatusOr<ResidentTensor> Attach(const std::string& handle, const CallOptions& call = {});

  absl::StatusOr<TensorInfo> Stat(const ResidentTensor& tensor, const CallOptions& call = {});

  // All tensors of the tenant, oldest first.
  absl::StatusOr<std::vector<TensorInfo>> List(const CallOptions& call = {});

  // Sets the lease to end `ttl` from now; zero: the server's default.
  absl::StatusOr<TensorInfo> Renew(const ResidentTensor& tensor, absl::Duration ttl,
                                   const CallOptions& call = {});

  // Protects the tensor from eviction and from the end of its lease for `pin`; zero: the server's
  // default.
  absl::StatusOr<TensorInfo> Pin(const ResidentTensor& tensor, absl::Duration pin,
                                 const CallOptions& call = {});
  absl::StatusOr<TensorInfo> Unpin(const ResidentTensor& tensor, const CallOptions& call = {});

  // Deletes the tensor on the server and releases the retained source. If the call fails, the
  // source is kept. Errors: FAILED_PRECONDITION with DetailsOf(status).missing_handles if the
  // tensor is missing or belongs to another tenant.
  absl::Status Delete(const ResidentTensor& tensor, const CallOptions& call = {});

  absl::StatusOr<ServerInfo> GetServerInfo(const CallOptions& call = {});

  // Times a kernel on the server. Errors: as for Run; INVALID_ARGUMENT for too many repetitions.
  absl::StatusOr<BenchmarkResult> RunBenchmark(const BenchmarkRequest& request,
                                               const CallOptions& call = {});

  // Whether the server as a whole (empty name) or one of its services accepts calls.
  absl::StatusOr<Health> CheckHealth(const std::string& service = "", const CallOptions& call = {});

  // For the library's own tests, which provide their own connection.
  class Impl;
  explicit Client(std::unique_ptr<Impl> impl);

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace theria::client

#endif  // THERIA_CLIENT_H_
