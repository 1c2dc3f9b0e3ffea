#ifndef THERIA_KERNELS_API_ATTENTION_H_
#define THERIA_KERNELS_API_ATTENTION_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/api/score_mod.h"
#include "kernels/api/tensor_view.h"

// The problem that a backend solves: tensors and options as a caller gives them, the one
// validation that they pass, and the shapes that follow. The formulas are in
// docs/operator_contract.md; the names of the tensors are the same in the proto, in C++, in Python
// and in the documents.
//
//   q                       [batch, heads_q,  seq_q,  head_dim]
//   k                       [batch, heads_kv, seq_kv, head_dim]
//   v                       [batch, heads_kv, seq_kv, head_dim_v]
//   o                       [batch, heads_q,  seq_q,  head_dim_v]
//   lse, lse_dot            [batch, heads_q,  seq_q]   float32; float64 for float64 inputs
//   x_dot, x_bar, x_bar_dot as x: tangent of x, cotangent of x, tangent of that cotangent
//
// All but the statistics share one floating-point dtype. All types here are plain values.

namespace theria {

inline constexpr std::int64_t kMaxHeadDim = 512;  // head_dim and head_dim_v

enum class Operation : std::uint8_t { kForward, kVjp, kJvp, kHvp };

// Who computes. kAuto leaves the choice to the backend.
enum class Implementation : std::uint8_t { kAuto, kFused, kUnfused, kReference };

// kStrict: float32 products and sums for float32 inputs. kFast: TF32 products are allowed.
enum class Precision : std::uint8_t { kStrict, kFast };

std::string_view OperationName(Operation operation);                 // "forward", "vjp", ...
std::string_view ImplementationName(Implementation implementation);  // "auto", "fused", ...
std::string_view PrecisionName(Precision precision);                 // "strict", "fast"

// Key j takes part in row i only if i - left <= j <= i + right; an absent side is unbounded.
struct Window {
  std::optional<std::int64_t> left;
  std::optional<std::int64_t> right;
};

struct Dropout {
  double probability = 0.0;  // in [0, 1)
  std::uint64_t seed = 0;
  std::uint64_t offset = 0;
};

struct AttentionOptions {
  std::optional<double> scale;  // default 1 / sqrt(head_dim)
  bool is_causal = false;       // top-left aligned: key j takes part in row i only if j <= i
  std::optional<Window> window;
  // Broadcasts to [batch, heads_q, seq_q, seq_kv], aligned at the last dimension as numpy does.
  // BOOL: true takes part. Floating point (any): added to the scaled scores.
  std::optional<TensorView> mask;
  Dropout dropout;
  Precision precision = Precision::kStrict;
  Implementation implementation = Implementation::kAuto;
};

// What an operation reads. q, k and v are always required; kVjp requires o_bar, kHvp o_bar too. An
// absent tangent is zero. o and lse, if given (both or neither), are the results of an earlier
// forward of the same q, k, v and options. They are a hint that may save work: P is never rebuilt
// from lse alone where that loses accuracy.
struct AttentionInputs {
  std::optional<TensorView> q, k, v;
  std::optional<TensorView> o, lse;
  std::optional<TensorView> o_bar;
  std::optional<TensorView> q_dot, k_dot, v_dot;
  std::optional<TensorView> o_bar_dot;
  AttentionOptions options;
};

// Where an operation writes; an absent output is not computed where that saves work. Outputs must
// have the shapes and dtypes of OutputLayout, no stride of 0, and overlap neither each other nor
// the inputs.
//   kForward  o, lse
//   kVjp      o, lse, q_bar, k_bar, v_bar
//   kJvp      o, lse, o_dot, lse_dot
//   kHvp      o, lse, o_dot, lse_dot, q_bar, k_bar, v_bar, q_bar_dot, k_bar_dot, v_bar_dot
struct AttentionOutputs {
  std::optional<MutableTensorView> o, lse, o_dot, lse_dot;
  std::optional<MutableTensorView> q_bar, k_bar, v_bar;
  std::optional<MutableTensorView> q_bar_dot, k_bar_dot, v_bar_dot;
};

// The fields by name, for code that treats them all alike.
struct InputField {
  std::string_view name;
  std::optional<TensorView> AttentionInputs::*member;
};
struct OutputField {
  std::string_view name;
  std::optional<MutableTensorView> AttentionOutputs::*member;
};
inline constexpr InputField kInputFields[] = {
    {"q", &AttentionInputs::q},         {"k", &AttentionInputs::k},
    {"v", &AttentionInputs::v},         {"o", &AttentionInputs::o},
    {"lse", &AttentionInputs::lse},     {"o_bar", &AttentionInputs::o_bar},
    {"q_dot", &AttentionInputs::q_dot}, {"k_dot", &AttentionInputs::k_dot},
    {"v_dot", &AttentionInputs::v_dot}, {"o_bar_dot", &AttentionInputs::o_bar_dot},
};
inline constexpr OutputField kOutputFields[] = {
    {"o", &AttentionOutputs::o},
    {"lse", &AttentionOutputs::lse},
    {"o_dot", &AttentionOutputs::o_dot},
    {"lse_dot", &AttentionOutputs::lse_dot},
    {"q_bar", &AttentionOutputs::q_bar},
    {"k_bar", &AttentionOutputs::k_bar},
    {"v_bar", &AttentionOutputs::v_bar},
    {"q_bar_dot", &AttentionOutputs::q_bar_dot},
    {"k_bar_dot", &AttentionOutputs::k_bar_dot},
    {"v_bar_dot", &AttentionOutputs::v_bar_dot},
};

// The sizes of a valid problem.
struct AttentionProblem {
  Operation operation = Operation::kForward;
  DType dtype = DType::kFloat32;
  std::int64_t batch = 0;
  std::int64_t heads_q = 0;
  std::int64_t heads_kv = 0;  // divides heads_q; query head h reads key head h / group()
  std::int64_t seq_q = 0;
  std::int64_t seq_kv = 0;
  std::int64_t head_dim = 0;
  std::int64_t head_dim_v = 0;
  double scale = 0.0;

  std::int64_t group() const { return heads_q / heads_kv; }
};

// Checks tensors and options against each other and against the contract; an input that the
// operation does not read must be absent. Looks at no element: `data` may still be null.
//
// Errors: INVALID_ARGUMENT. The message names the field, what came and what was expected
// ("k.shape[3] is 48, must equal q.shape[3] = 64"); FieldOf(status) is the field alone.
absl::StatusOr<AttentionProblem> Validate(Operation operation, const AttentionInputs& inputs);

// An INVALID_ARGUMENT that says "<field> <message>" and carries the path of the field at fault
// ("k.shape[3]", "options.dropout.probability").
absl::Status InvalidField(std::string_view field, std::string_view message);

// The field that InvalidField recorded, or nothing.
std::optional<std::string> FieldOf(const absl::Status& status);

// Whether `operation` produces the output of that name.
bool HasOutput(Operation operation, std::string_view output);

// The dtype and the row-major shape and strides of an output; `data` is null.
// REQUIRES: `output` is a name of kOutputFields.
MutableTensorView OutputLayout(const AttentionProblem& problem, std::string_view output);

// REQUIRES: Validate accepted `options` as part of `problem`.
ScoreMod MakeScoreMod(const AttentionProblem& problem, const AttentionOptions& options);

// Floating-point operations of the products that the definition needs, two per multiply-add:
// forward 2, VJP 5, JVP with its primal 6, HVP from scratch 21 (with saved o and lse as well)
// products of 2 * batch * heads_q * seq_q * seq_kv * head_dim (head_dim_v for those with v or
// o_bar); half of that if causal.
double AttentionFlops(const AttentionProblem& problem, const AttentionOptions& options);

}  // namespace theria

#endif  // THERIA_KERNELS_API_ATTENTION_H_
