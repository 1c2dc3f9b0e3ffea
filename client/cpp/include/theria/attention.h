#ifndef THERIA_ATTENTION_H_
#define THERIA_ATTENTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "theria/resident_tensor.h"
#include "theria/shared_region.h"

// Scaled dot-product attention and its exact derivatives, as an interface and its plain values.
//
//     S = scale * q k^T + B,  lse = logsumexp_j S,  P = exp(S - lse),  o = (P * Z) v
//
// with B the additive mask and Z the dropout matrix; with a soft cap c, S = c tanh(scale * q k^T /
// c)
// + B. docs/operator_contract.md has the formulas of all four operations. Names and shapes are the
// same everywhere:
//
//   q                       [batch, heads_q,  seq_q,  head_dim]
//   k                       [batch, heads_kv, seq_kv, head_dim]    heads_kv divides heads_q
//   v                       [batch, heads_kv, seq_kv, head_dim_v]
//   o                       [batch, heads_q,  seq_q,  head_dim_v]
//   lse, lse_dot            [batch, heads_q,  seq_q]   float32; float64 for float64 inputs
//   bias                    options.mask, of its own shape and dtype
//   x_dot, x_bar, x_bar_dot as x: tangent of x, cotangent of x, tangent of that cotangent
//
// All but the statistics and the options' tensors share one floating-point dtype. Any non-negative
// strides. Extents of 0 are valid: results are empty, o is zero where there are no keys.

namespace theria::client {

enum class Operation : std::uint8_t { kForward, kVjp, kJvp, kHvp };
enum class Implementation : std::uint8_t { kAuto, kFused, kUnfused, kReference };
enum class Precision : std::uint8_t {
  kStrict,  // float32 products and sums for float32 inputs
  kFast,    // TF32 products are allowed
};

// Where the diagonal of `is_causal` and `window` lies when seq_q != seq_kv: the offset that is
// added to the row i before it is compared with the key j.
enum class CausalAlignment : std::uint8_t {
  kUpperLeft,   // 0
  kLowerRight,  // seq_kv - seq_q; of each document where the sequences are packed
};

std::string_view OperationName(Operation operation);                 // "forward", "vjp", ...
std::string_view ImplementationName(Implementation implementation);  // "auto", "fused", ...
std::string_view PrecisionName(Precision precision);                 // "strict", "fast"

// Key j takes part in row i only if i - left <= j <= i + right, i counted from the diagonal of
// CausalAlignment; an absent side is unbounded.
struct Window {
  std::optional<std::int64_t> left;
  std::optional<std::int64_t> right;
};

// The same (seed, offset) draws the same elements in all four operations and on every server.
struct Dropout {
  double probability = 0.0;  // in [0, 1)
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;
};

struct AttentionOptions {
  std::optional<double> scale;  // default 1 / sqrt(head_dim)
  bool is_causal = false;       // key j takes part in row i only if j <= i, from the diagonal
  std::optional<Window> window;
  CausalAlignment causal_alignment = CausalAlignment::kUpperLeft;
  std::optional<double> softcap;  // positive and finite; none: scores are not capped
  // Broadcasts to [batch, heads_q, seq_q, seq_kv]. kBool: true takes part; floating point: added to
  // the scores. None: no mask.
  AnyTensor mask;
  AnyTensor alibi_slopes;  // [heads_q] or [batch, heads_q]: adds -slope * |i - j| to the scores, i
                           // counted from the diagonal
  AnyTensor kv_lengths;    // kInt32 [batch]: key j takes part only if j < kv_lengths[b]
  // kInt32 [documents + 1], both or neither, where batch is 1: row i of a document sees the keys of
  // that document alone; positions count from its first row and key.
  AnyTensor cu_seqlens_q, cu_seqlens_kv;
  Dropout dropout;
  Precision precision = Precision::kStrict;
  Implementation implementation = Implementation::kAuto;
  bool deterministic = false;  // equal calls give equal bits
};

// What becomes of one output.
enum class OutputMode : std::uint8_t {
  kDefault,   // as the table of OutputSpec says
  kSkip,      // not computed where that saves work
  kInline,    // returned as a local Tensor
  kResident,  // left on the server, returned as a ResidentTensor
};

// Asking for an output that the operation does not have is an error.
struct OutputSpec {
  OutputMode o = OutputMode::kDefault;        // inline for forward and JVP, else skipped
  OutputMode lse = OutputMode::kDefault;      // inline for forward, else skipped
  OutputMode o_dot = OutputMode::kDefault;    // inline for JVP, skipped for HVP
  OutputMode lse_dot = OutputMode::kDefault;  // skipped
  OutputMode q_bar = OutputMode::kDefault;    // this and those below: inline
  OutputMode k_bar = OutputMode::kDefault;
  OutputMode v_bar = OutputMode::kDefault;
  OutputMode q_bar_dot = OutputMode::kDefault;
  OutputMode k_bar_dot = OutputMode::kDefault;
  OutputMode v_bar_dot = OutputMode::kDefault;
  OutputMode bias_bar = OutputMode::kDefault;      // skipped; needs a floating-point mask
  OutputMode bias_bar_dot = OutputMode::kDefault;  // likewise
  absl::Duration resident_ttl;  // lease of resident outputs; zero: the server's default
  // Shared memory in which inline outputs are made; together they are one piece of room there,
  // which is free again when the last of them is gone. None: memory of this process.
  //
  // After a call that the server has not answered (DEADLINE_EXCEEDED, CANCELLED, UNAVAILABLE), that
  // room is not used again: the server may still be writing.
  std::optional<SharedRegion> region;
};

// The inputs of any of the operations. q, k, v are always required; VJP and HVP require o_bar or
// lse_bar, the cotangent of lse. An absent cotangent or tangent is zero. o and lse (both or
// neither) are those of an earlier forward of the same q, k, v and options, and save its work. An
// input that the operation does not read is an error.
//
//   forward  q k v
//   VJP      q k v  [o lse]  [o_bar lse_bar]
//   JVP      q k v  [o lse]                   [q_dot k_dot v_dot bias_dot]
//   HVP      q k v  [o lse]  [o_bar lse_bar]  [q_dot k_dot v_dot bias_dot]  [o_bar_dot lse_bar_dot]
struct AttentionRequest {
  AnyTensor q, k, v;
  AnyTensor o, lse;
  AnyTensor o_bar;
  AnyTensor q_dot, k_dot, v_dot;
  AnyTensor o_bar_dot;
  AnyTensor lse_bar, lse_bar_dot;
  AnyTensor bias_dot;
  AttentionOptions options;
  OutputSpec outputs;
};

// How a call was computed, and how long it took.
struct ExecutionInfo {
  std::string request_id;  // also in the server's log line for the request
  Implementation implementation = Implementation::kAuto;  // never kAuto in a response
  std::string kernel;                                     // the kernel variant that ran
  std::string device;                                     // "cpu", "cuda:0"
  absl::Duration queue_time;    // on the server, from acceptance to the start of the computation
  absl::Duration compute_time;  // by the device's clock if it has one
  absl::Duration rpc_time;      // in the client: the last attempt, from request to response
  absl::Duration total_time;    // in the client: the whole call, with conversions and retries
};

// Outputs that were skipped, or that the operation does not have, have no value.
struct AttentionResult {
  AnyTensor o, lse, o_dot, lse_dot;
  AnyTensor q_bar, k_bar, v_bar;
  AnyTensor q_bar_dot, k_bar_dot, v_bar_dot;
  AnyTensor bias_bar, bias_bar_dot;  // shape and dtype of options.mask
  ExecutionInfo execution;
};

struct CallOptions {
  // For the whole call, including retries. Zero: ClientOptions::timeout.
  absl::Duration timeout;
};

// The interface of attention. Client implements it with a server; tests and tools have other
// implementations. Implementations are thread-safe. Each call blocks until it has finished.
class Attention {
 public:
  virtual ~Attention() = default;

  // Errors: INVALID_ARGUMENT (invalid shapes, dtypes or options), UNIMPLEMENTED (valid, but there
  // is no kernel), RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, CANCELLED, UNAVAILABLE, INTERNAL, and
  // FAILED_PRECONDITION for a missing resident tensor. theria/error_details.h has the details.
  virtual absl::StatusOr<AttentionResult> Run(Operation operation, const AttentionRequest& request,
                                              const CallOptions& call = {}) = 0;

  // Computes o and lse.
  absl::StatusOr<AttentionResult> Forward(const AttentionRequest& request,
                                          const CallOptions& call = {}) {
    return Run(Operation::kForward, request, call);
  }
  // Vector-Jacobian product: q_bar, k_bar, v_bar for the cotangent o_bar.
  absl::StatusOr<AttentionResult> Vjp(const AttentionRequest& request,
                                      const CallOptions& call = {}) {
    return Run(Operation::kVjp, request, call);
  }
  // Jacobian-vector product: o and o_dot for the tangents q_dot, k_dot, v_dot.
  absl::StatusOr<AttentionResult> Jvp(const AttentionRequest& request,
                                      const CallOptions& call = {}) {
    return Run(Operation::kJvp, request, call);
  }
  // Hessian-vector product, forward over reverse: the JVP of the VJP in the direction
  // (q_dot, k_dot, v_dot, o_bar_dot).
  absl::StatusOr<AttentionResult> Hvp(const AttentionRequest& request,
                                      const CallOptions& call = {}) {
    return Run(Operation::kHvp, request, call);
  }
};

// The tensors by name, for code that iterates over all of them.
struct InputField {
  std::string_view name;
  AnyTensor AttentionRequest::*member;
};
struct OutputField {
  std::string_view name;
  AnyTensor AttentionResult::*member;
  OutputMode OutputSpec::*mode;
};
inline constexpr InputField kInputFields[] = {
    {"q", &AttentionRequest::q},
    {"k", &AttentionRequest::k},
    {"v", &AttentionRequest::v},
    {"o", &AttentionRequest::o},
    {"lse", &AttentionRequest::lse},
    {"o_bar", &AttentionRequest::o_bar},
    {"q_dot", &AttentionRequest::q_dot},
    {"k_dot", &AttentionRequest::k_dot},
    {"v_dot", &AttentionRequest::v_dot},
    {"o_bar_dot", &AttentionRequest::o_bar_dot},
    {"lse_bar", &AttentionRequest::lse_bar},
    {"lse_bar_dot", &AttentionRequest::lse_bar_dot},
    {"bias_dot", &AttentionRequest::bias_dot},
};
inline constexpr OutputField kOutputFields[] = {
    {"o", &AttentionResult::o, &OutputSpec::o},
    {"lse", &AttentionResult::lse, &OutputSpec::lse},
    {"o_dot", &AttentionResult::o_dot, &OutputSpec::o_dot},
    {"lse_dot", &AttentionResult::lse_dot, &OutputSpec::lse_dot},
    {"q_bar", &AttentionResult::q_bar, &OutputSpec::q_bar},
    {"k_bar", &AttentionResult::k_bar, &OutputSpec::k_bar},
    {"v_bar", &AttentionResult::v_bar, &OutputSpec::v_bar},
    {"q_bar_dot", &AttentionResult::q_bar_dot, &OutputSpec::q_bar_dot},
    {"k_bar_dot", &AttentionResult::k_bar_dot, &OutputSpec::k_bar_dot},
    {"v_bar_dot", &AttentionResult::v_bar_dot, &OutputSpec::v_bar_dot},
    {"bias_bar", &AttentionResult::bias_bar, &OutputSpec::bias_bar},
    {"bias_bar_dot", &AttentionResult::bias_bar_dot, &OutputSpec::bias_bar_dot},
};

// The options, each in one row of one of two tables, by the names of theria.v1.AttentionOptions.
struct OptionTensor {
  std::string_view name;
  AnyTensor AttentionOptions::*member;
};
inline constexpr OptionTensor kOptionTensors[] = {
    {"mask", &AttentionOptions::mask},
    {"alibi_slopes", &AttentionOptions::alibi_slopes},
    {"kv_lengths", &AttentionOptions::kv_lengths},
    {"cu_seqlens_q", &AttentionOptions::cu_seqlens_q},
    {"cu_seqlens_kv", &AttentionOptions::cu_seqlens_kv},
};
template <typename T>
struct PlainOption {
  std::string_view name;
  T AttentionOptions::*member;
};
inline constexpr std::tuple kPlainOptions = {
    PlainOption{"scale", &AttentionOptions::scale},
    PlainOption{"is_causal", &AttentionOptions::is_causal},
    PlainOption{"window", &AttentionOptions::window},
    PlainOption{"causal_alignment", &AttentionOptions::causal_alignment},
    PlainOption{"softcap", &AttentionOptions::softcap},
    PlainOption{"dropout", &AttentionOptions::dropout},
    PlainOption{"precision", &AttentionOptions::precision},
    PlainOption{"implementation", &AttentionOptions::implementation},
    PlainOption{"deterministic", &AttentionOptions::deterministic},
};
// Calls `visit(row)` for each row of kPlainOptions.
template <typename Visitor>
void ForEachPlainOption(Visitor visit) {
  std::apply([&](const auto&... rows) { (visit(rows), ...); }, kPlainOptions);
}

}  // namespace theria::client

#endif  // THERIA_ATTENTION_H_
