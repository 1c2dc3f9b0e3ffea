#ifndef THERIA_MAML_REMOTE_ATTENTION_H_
#define THERIA_MAML_REMOTE_ATTENTION_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"
#include "theria/attention.h"
#include "theria/maml_attention.h"

// Attention computed by a server. Matrices are rounded to `dtype` before they are sent; results are
// returned exactly. Requests for derivatives include `lse` and `o` of the forward pass, so that the
// server does not compute them again.

namespace theria::maml {

// The calls of one operation and their times.
struct CallStatistics {
  std::int64_t calls = 0;       // successful ones
  absl::Duration total_time;    // in the client, including conversions and retries
  absl::Duration rpc_time;      // from request to response
  absl::Duration queue_time;    // on the server, before the computation
  absl::Duration compute_time;  // on the server's device

  CallStatistics& operator+=(const CallStatistics& other);
};

// Not thread-safe.
class RemoteAttention : public AttentionOps {
 public:
  struct Options {
    client::DType dtype = client::DType::kFloat64;
    client::Implementation implementation = client::Implementation::kAuto;
  };

  // `attention`, usually a client::Client, must outlive this. REQUIRES: a floating-point dtype.
  RemoteAttention(client::Attention& attention, const Options& options);

  // Errors of all methods: as for client::Attention::Run; the message starts with the operation.
  absl::StatusOr<AttentionOutput> Forward(int batch, const Qkv& x) override;
  absl::StatusOr<Qkv> Vjp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& o_bar) override;
  absl::StatusOr<AttentionTangent> Jvp(int batch, const Qkv& x, const Qkv& x_dot) override;
  absl::StatusOr<Qkv> Hvp(int batch, const Qkv& x, const AttentionOutput& saved,
                          const Matrix& o_bar, const Qkv& x_dot, const Matrix& o_bar_dot) override;

  // Statistics of all calls so far.
  const CallStatistics& statistics(client::Operation operation) const {
    return statistics_[static_cast<std::size_t>(operation)];
  }
  CallStatistics total() const;

 private:
  client::AttentionRequest MakeRequest(int batch, const Qkv& x) const;
  void SetSaved(int batch, const AttentionOutput& saved, client::AttentionRequest& request) const;
  void SetTangent(int batch, const Qkv& x_dot, client::AttentionRequest& request) const;
  // [batch, 1, seq, dim]; may borrow `matrix`.
  client::Tensor ToTensor(int batch, const Matrix& matrix) const;
  absl::StatusOr<client::AttentionResult> Call(client::Operation operation,
                                               const client::AttentionRequest& request);

  client::Attention& attention_;
  Options options_;
  std::array<CallStatistics, 4> statistics_;  // by client::Operation
};

}  // namespace theria::maml

#endif  // THERIA_MAML_REMOTE_ATTENTION_H_
