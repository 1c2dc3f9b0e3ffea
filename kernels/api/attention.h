#ifndef THERIA_KERNELS_API_ATTENTION_H_
#define THERIA_KERNELS_API_ATTENTION_H_

#include <array>
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
//   lse                     [batch, heads_q,  seq_q]   float32; float64 for float64 inputs
//   bias                    a floating-point options.mask, of its own broadcast shape and dtype
//   x_dot, x_bar, x_bar_dot as x: tangent of x, cotangent of x, tangent of that cotangent
//
// All but the statistics and the options' tensors share one floating-point dtype. Extents may be 0.
// All types here are plain values.

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

// Where the diagonal i' of causal, window and ALiBi lies. kUpperLeft: i' = i. kLowerRight:
// i' = i + seq_kv - seq_q, so that the last query meets the last key.
enum class CausalAlignment : std::uint8_t { kUpperLeft, kLowerRight };

// Key j takes part in row i only if i' - left <= j <= i' + right; an absent side is unbounded.
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
  bool is_causal = false;       // key j takes part in row i only if j <= i'
  CausalAlignment causal_alignment = CausalAlignment::kUpperLeft;
  std::optional<Window> window;
  std::optional<double> softcap;  // c > 0: the scaled scores U become c tanh(U / c)
  // Broadcasts to [batch, heads_q, seq_q, seq_kv], aligned at the last dimension as numpy does.
  // BOOL: true takes part. Floating point (any): added to the scaled and capped scores.
  std::optional<TensorView> mask;
  // [heads_q] or [batch, heads_q], any floating-point dtype: adds -slope * |i' - j| to the score.
  std::optional<TensorView> alibi_slopes;
  // int32 [batch], each in [0, seq_kv]: key j takes part only if j < kv_lengths[batch].
  std::optional<TensorView> kv_lengths;
  // int32 [documents + 1], both or neither, for a batch of 1: from 0 to seq_q (seq_kv), not
  // decreasing. Rows of document d see keys of document d only, and causal, window, alignment and
  // ALiBi count within it. Not together with kv_lengths.
  std::optional<TensorView> cu_seqlens_q, cu_seqlens_kv;
  Dropout dropout;
  bool deterministic = false;  // results are bitwise the same from run to run
  Precision precision = Precision::kStrict;
  Implementation implementation = Implementation::kAuto;
};

// What an operation reads. q, k and v are always required. kVjp and kHvp require o_bar unless
// lse_bar is given; an absent tangent or cotangent is zero. o and lse, if given (both or neither),
// are the results of an earlier forward of the same q, k, v and options. They are a hint that may
// save work: P is never rebuilt from lse alone where that loses accuracy.
struct AttentionInputs {
  std::optional<TensorView> q, k, v;
  std::optional<TensorView> o, lse;
  std::optional<TensorView> o_bar;
  std::optional<TensorView> q_dot, k_dot, v_dot;
  std::optional<TensorView> o_bar_dot;
  std::optional<TensorView> lse_bar, lse_bar_dot;
  std::optional<TensorView> bias_dot;  // requires a floating-point options.mask
  AttentionOptions options;
};

// Where an operation writes; an absent output is not computed where that saves work. Outputs must
// have the shapes and dtypes of OutputLayout, no stride of 0, and overlap neither each other nor
// the inputs. bias_bar and bias_bar_dot are sums over the dimensions that the mask broadcasts over.
struct AttentionOutputs {
  std::optional<MutableTensorView> o, lse, o_dot, lse_dot;
  std::optional<MutableTensorView> q_bar, k_bar, v_bar;
  std::optional<MutableTensorView> q_bar_dot, k_bar_dot, v_bar_dot;
  std::optional<MutableTensorView> bias_bar, bias_bar_dot;
};

// The tables: every tensor by name. Code that treats tensors alike goes over them and names none.

// What shape and dtype a tensor has.
enum class Like : std::uint8_t { kQ, kK, kV, kO, kLse, kBias };

// Operations as a set of bits.
using OperationSet = std::uint8_t;
template <typename... Operations>
constexpr OperationSet SetOf(Operations... operations) {
  return static_cast<OperationSet>(((1u << static_cast<unsigned>(operations)) | ... | 0u));
}
constexpr bool Contains(OperationSet set, Operation operation) {
  return (set >> static_cast<unsigned>(operation) & 1u) != 0;
}
inline constexpr OperationSet kAllOperations =
    SetOf(Operation::kForward, Operation::kVjp, Operation::kJvp, Operation::kHvp);
inline constexpr OperationSet kDerivatives =
    SetOf(Operation::kVjp, Operation::kJvp, Operation::kHvp);
inline constexpr OperationSet kReverse = SetOf(Operation::kVjp, Operation::kHvp);
inline constexpr OperationSet kTangent = SetOf(Operation::kJvp, Operation::kHvp);
inline constexpr OperationSet kSecondOrder = SetOf(Operation::kHvp);

struct InputField {
  std::string_view name;
  std::optional<TensorView> AttentionInputs::*member;
  Like like;
  OperationSet operations;  // that read it
};
struct OutputField {
  std::string_view name;
  std::optional<MutableTensorView> AttentionOutputs::*member;
  Like like;
  OperationSet operations;  // that produce it
};
struct OptionTensor {
  std::string_view name;
  std::string_view path;  // in errors
  std::optional<TensorView> AttentionOptions::*member;
};
inline constexpr InputField kInputFields[] = {
    {"q", &AttentionInputs::q, Like::kQ, kAllOperations},
    {"k", &AttentionInputs::k, Like::kK, kAllOperations},
    {"v", &AttentionInputs::v, Like::kV, kAllOperations},
    {"o", &AttentionInputs::o, Like::kO, kDerivatives},
    {"lse", &AttentionInputs::lse, Like::kLse, kDerivatives},
    {"o_bar", &AttentionInputs::o_bar, Like::kO, kReverse},
    {"q_dot", &AttentionInputs::q_dot, Like::kQ, kTangent},
    {"k_dot", &AttentionInputs::k_dot, Like::kK, kTangent},
    {"v_dot", &AttentionInputs::v_dot, Like::kV, kTangent},
    {"o_bar_dot", &AttentionInputs::o_bar_dot, Like::kO, kSecondOrder},
    {"lse_bar", &AttentionInputs::lse_bar, Like::kLse, kReverse},
    {"lse_bar_dot", &AttentionInputs::lse_bar_dot, Like::kLse, kSecondOrder},
    {"bias_dot", &AttentionInputs::bias_dot, Like::kBias, kTangent},
};
inline constexpr OutputField kOutputFields[] = {
    {"o", &AttentionOutputs::o, Like::kO, kAllOperations},
    {"lse", &AttentionOutputs::lse, Like::kLse, kAllOperations},
    {"o_dot", &AttentionOutputs::o_dot, Like::kO, kTangent},
    {"lse_dot", &AttentionOutputs::lse_dot, Like::kLse, kTangent},
    {"q_bar", &AttentionOutputs::q_bar, Like::kQ, kReverse},
    {"k_bar", &AttentionOutputs::k_bar, Like::kK, kReverse},
    {"v_bar", &AttentionOutputs::v_bar, Like::kV, kReverse},
    {"q_bar_dot", &AttentionOutputs::q_bar_dot, Like::kQ, kSecondOrder},
    {"k_bar_dot", &AttentionOutputs::k_bar_dot, Like::kK, kSecondOrder},
    {"v_bar_dot", &AttentionOutputs::v_bar_dot, Like::kV, kSecondOrder},
    {"bias_bar", &AttentionOutputs::bias_bar, Like::kBias, kReverse},
    {"bias_bar_dot", &AttentionOutputs::bias_bar_dot, Like::kBias, kSecondOrder},
};
inline constexpr OptionTensor kOptionTensors[] = {
    {"mask", "options.mask", &AttentionOptions::mask},
    {"alibi_slopes", "options.alibi_slopes", &AttentionOptions::alibi_slopes},
    {"kv_lengths", "options.kv_lengths", &AttentionOptions::kv_lengths},
    {"cu_seqlens_q", "options.cu_seqlens_q", &AttentionOptions::cu_seqlens_q},
    {"cu_seqlens_kv", "options.cu_seqlens_kv", &AttentionOptions::cu_seqlens_kv},
};

// Calls visit(path, std::optional<TensorView>&) for each tensor that an operation may read, those
// of the options included. `inputs` may be const.
template <typename Inputs, typename Visit>
void ForEachInput(Inputs& inputs, Visit visit) {
  for (const InputField& field : kInputFields) visit(field.name, inputs.*field.member);
  for (const OptionTensor& tensor : kOptionTensors) {
    visit(tensor.path, inputs.options.*tensor.member);
  }
}

// Calls visit(value) with each option that is not a tensor, as a number or an enumerator: what
// tells the options of two problems apart beside their tensors, and scale, which the problem holds.
template <typename Visit>
void ForEachScalarOption(const AttentionOptions& options, Visit visit) {
  const Window window = options.window.value_or(Window{});
  constexpr std::int64_t kUnset = -1;  // no side of a window, no cap
  visit(options.is_causal);
  visit(options.causal_alignment);
  visit(window.left.value_or(kUnset));
  visit(window.right.value_or(kUnset));
  visit(options.softcap.value_or(kUnset));
  visit(options.dropout.probability);
  visit(options.dropout.seed);
  visit(options.dropout.offset);
  visit(options.deterministic);
  visit(options.precision);
  visit(options.implementation);
}

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
  // The row-major layout of a floating-point mask, and so of bias_bar; `data` is null.
  std::optional<MutableTensorView> bias;

  std::int64_t group() const { return heads_kv == 0 ? 1 : heads_q / heads_kv; }

  // Without a score, outputs are zero, and lse is -inf.
  bool has_scores() const { return batch != 0 && heads_q != 0 && seq_q != 0 && seq_kv != 0; }
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

// Whether `operation` reads the input of that name, and whether it produces the output.
bool HasInput(Operation operation, std::string_view input);
bool HasOutput(Operation operation, std::string_view output);

// The same for a problem, which has bias_bar and bias_bar_dot only with a floating-point mask.
bool HasOutput(const AttentionProblem& problem, std::string_view output);

// Errors: INVALID_ARGUMENT for `field`, and why, if the problem has no such output.
absl::Status CheckHasOutput(const AttentionProblem& problem, std::string_view output,
                            std::string_view field);

// Whether an output is a derivative with respect to the bias, computed only where asked for by
// name: no default includes it.
bool IsOfBias(std::string_view output);

// The dtype and the row-major shape and strides of an output; `data` is null.
// REQUIRES: HasOutput(problem, output), or for all but those of the bias a name of kOutputFields.
MutableTensorView OutputLayout(const AttentionProblem& problem, std::string_view output);

// REQUIRES: Validate accepted `options` as part of `problem`.
ScoreMod MakeScoreMod(const AttentionProblem& problem, const AttentionOptions& options);

// Floating-point operations of the products that the definition needs, two per multiply-add:
// forward 2, VJP 5, JVP with its primal 6, HVP from scratch 21 (with saved o and lse as well)
// products of 2 * batch * heads_q * seq_q * seq_kv * head_dim (head_dim_v for those with v or
// o_bar); half of that if causal. An upper bound where key lengths or documents leave out keys:
// their contents are not looked at.
double AttentionFlops(const AttentionProblem& problem, const AttentionOptions& options);

}  // namespace theria

#endif  // THERIA_KERNELS_API_ATTENTION_H_
