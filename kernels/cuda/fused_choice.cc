#include "kernels/cuda/fused_choice.h"

#include <algorithm>
#include <cstdint>

#include "kernels/api/message.h"
#include "kernels/cuda/fused.h"
#include "kernels/cuda/runtime/staging.h"

namespace theria::cuda {
namespace {

// Kernels count rows in 32 bits, with room for window arithmetic.
constexpr std::int64_t kMaxSequence = std::int64_t{1} << 29;

}  // namespace

Arithmetic ArithmeticOf(DType dtype, Precision precision, bool extended) {
  switch (dtype) {
    case DType::kFloat16:
      return Arithmetic::kFloat16;
    case DType::kBFloat16:
      return Arithmetic::kBFloat16;
    case DType::kFloat64:
      return Arithmetic::kFloat64;
    default:
      return precision == Precision::kFast && !extended ? Arithmetic::kTf32 : Arithmetic::kFloat32;
  }
}

bool NeedsGeneral(const AttentionProblem& problem, const AttentionOptions& options) {
  return options.mask.has_value() || options.dropout.probability > 0.0 || NeedsExtended(options) ||
         !(static_cast<float>(problem.scale) > 1e-30f);
}

bool NeedsExtended(const AttentionOptions& options) {
  return options.softcap.has_value() || options.alibi_slopes.has_value() ||
         options.kv_lengths.has_value() || options.cu_seqlens_q.has_value();
}

bool ForbidsPairs(const AttentionOptions& options) {
  return options.is_causal || options.window.has_value() || options.mask.has_value() ||
         options.kv_lengths.has_value() || options.cu_seqlens_q.has_value();
}

std::vector<KernelKind> KindsOf(Operation operation) {
  switch (operation) {
    case Operation::kForward:
      return {KernelKind::kForward};
    case Operation::kVjp:
      return {KernelKind::kForward, KernelKind::kVjpQueries, KernelKind::kVjpKeys};
    case Operation::kJvp:
      return {KernelKind::kJvp};
    case Operation::kHvp:
      return {KernelKind::kJvp, KernelKind::kHvpQueries, KernelKind::kHvpKeys,
              KernelKind::kVjpQueries, KernelKind::kVjpKeys};
  }
  return {};
}

void FoldAlignment(ScoreMod* mod) {
  if (!mod->lower_right) return;
  const std::int64_t shift = mod->seq_kv - mod->seq_q;
  if (mod->window_left < ScoreMod::kUnbounded) mod->window_left -= shift;
  if (mod->window_right < ScoreMod::kUnbounded) mod->window_right += shift;
  mod->lower_right = false;
}

absl::Status SupportsFused(const AttentionProblem& problem, const AttentionOptions& options,
                           const KernelChooser& kernels) {
  const std::int64_t dim = std::max(PaddedColumns(problem.head_dim, problem.dtype),
                                    PaddedColumns(problem.head_dim_v, problem.dtype));
  const bool extended = NeedsExtended(options);
  const Arithmetic arithmetic = ArithmeticOf(problem.dtype, options.precision, extended);
  for (const KernelKind kind : KindsOf(problem.operation)) {
    // General kernels without the copy engine serve everything.
    const KernelKey key = {kind,
                           arithmetic,
                           static_cast<int>(dim),
                           true,
                           HasTangents(kind) ? TangentSet::kSome : TangentSet::kAll,
                           extended};
    const KernelUse use = {
        .length = problem.seq_q, .is_causal = options.is_causal, .mapped = false};
    if (kernels.Find(key, use) != nullptr) continue;
    int largest = 0;
    for (const KernelVariant& other : KernelVariants()) {
      if (other.key.kind == kind && other.key.arithmetic == arithmetic &&
          CanRun(kernels.device(), other)) {
        largest = std::max(largest, other.key.dim);
      }
    }
    return absl::UnimplementedError(
        Message("on this device the fused ", OperationName(problem.operation), " for ",
                DTypeName(problem.dtype), " supports head_dim and head_dim_v up to ", largest,
                ", these are ", problem.head_dim, " and ", problem.head_dim_v));
  }
  if (std::max(problem.seq_q, problem.seq_kv) > kMaxSequence) {
    return absl::UnimplementedError(
        Message("the fused implementation supports sequences up to ", kMaxSequence));
  }
  constexpr std::int64_t kMaxHeads = std::int64_t{1} << 30;
  if (problem.batch * problem.heads_q > kMaxHeads) {
    return absl::UnimplementedError(
        Message("the fused implementation supports batch * heads_q up to ", kMaxHeads));
  }
  return absl::OkStatus();
}

}  // namespace theria::cuda
