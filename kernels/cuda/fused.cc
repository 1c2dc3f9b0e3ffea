#include "kernels/cuda/fused.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "kernels/api/message.h"
#include "kernels/cuda/attention/launch.h"
#include "kernels/cuda/attention/params.h"
#include "kernels/cuda/attention/sm90a/tensor_maps.h"
#include "kernels/cuda/bias/bias_gradient.h"
#include "kernels/cuda/empty_results.h"
#include "kernels/cuda/fused_choice.h"
#include "kernels/cuda/fused_inputs.h"
#include "kernels/cuda/recompute/recompute.h"
#include "kernels/cuda/registry.h"
#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/runtime/staging.h"
#include "kernels/cuda/runtime/strided_copy.h"

#define THERIA_RETURN_IF_ERROR(expression)     \
  do {                                         \
    const absl::Status status_ = (expression); \
    if (!status_.ok()) return status_;         \
  } while (false)

namespace theria::cuda {
namespace {

// The shortest sequences, of queries and of keys, whose VJP takes one pass.
constexpr std::int64_t kOnePassVjpLength = 512;

// Whether probabilities are rounded to so few bits that a saved lse can be exact enough for them.
bool RoundsProbabilities(Arithmetic arithmetic) {
  return arithmetic != Arithmetic::kFloat32 && arithmetic != Arithmetic::kFloat64;
}

bool HasTangents(Operation operation) {
  return operation == Operation::kJvp || operation == Operation::kHvp;
}

bool LacksTangent(const AttentionInputs& inputs) {
  return !inputs.q_dot.has_value() || !inputs.k_dot.has_value() || !inputs.v_dot.has_value();
}

// The kernels of one computation, enqueued one by one.
class FusedRun {
 public:
  FusedRun(const AttentionProblem& problem, const AttentionInputs& inputs,
           const AttentionOutputs& outputs, const KernelChooser& kernels, Workspace* workspace)
      : problem_(problem),
        inputs_(inputs),
        outputs_(outputs),
        kernels_(kernels),
        workspace_(workspace),
        staging_(workspace),
        extended_(NeedsExtended(inputs.options) || inputs.bias_dot.has_value()),
        arithmetic_(ArithmeticOf(problem.dtype, inputs.options.precision, extended_)),
        lacks_tangent_(HasTangents(problem.operation) && LacksTangent(inputs)),
        general_(NeedsGeneral(problem, inputs.options) ||
                 (problem.operation == Operation::kHvp && lacks_tangent_)) {}

  absl::StatusOr<std::string> Enqueue() {
    THERIA_RETURN_IF_ERROR(BindInputs(problem_, inputs_, workspace_, &staging_, &params_));
    if (GainsByFilledTangents()) THERIA_RETURN_IF_ERROR(FillTangents());
    params_.general = general_;
    if (extended_ || wants_bias()) THERIA_RETURN_IF_ERROR(ProvideRowKeys(workspace_, &params_));
    if (ForbidsPairs(inputs_.options)) THERIA_RETURN_IF_ERROR(ProvideNanFlags());
    THERIA_RETURN_IF_ERROR(ProvideTileCounter());
    switch (problem_.operation) {
      case Operation::kForward:
        THERIA_RETURN_IF_ERROR(Forward());
        break;
      case Operation::kJvp:
        THERIA_RETURN_IF_ERROR(Jvp());
        break;
      case Operation::kVjp:
        THERIA_RETURN_IF_ERROR(Vjp());
        break;
      case Operation::kHvp:
        THERIA_RETURN_IF_ERROR(Hvp());
        break;
    }
    THERIA_RETURN_IF_ERROR(Recompute());
    if (wants_bias()) THERIA_RETURN_IF_ERROR(BiasGradients());
    THERIA_RETURN_IF_ERROR(staging_.Finish());
    return names_;
  }

 private:
  bool wants_bias() const {
    return outputs_.bias_bar.has_value() || outputs_.bias_bar_dot.has_value();
  }

  // Kernels for absent tangents are general and of generation sm80, and all kernels of a call are
  // of one kind (params.h). Where sm90a serves the call but for an absent tangent, zeros in its
  // place take less time than those: 1.7 instead of 7.1 ms in a double backward by q at
  // 4,16,2048,64.
  bool GainsByFilledTangents() const {
    if (!lacks_tangent_ || NeedsGeneral(problem_, inputs_.options)) return false;
    for (const KernelKind kind : KindsOf(problem_.operation)) {
      if (!HasTangents(kind)) continue;
      const KernelVariant* variant = Find(KeyOf(kind, /*general=*/false, /*lacks_tangent=*/false));
      if (variant == nullptr || variant->generation != Generation::kSm90a) return false;
    }
    return true;
  }

  absl::Status FillTangents() {
    THERIA_RETURN_IF_ERROR(
        FillWithZeros({&AttentionParams::q_dot, &AttentionParams::k_dot, &AttentionParams::v_dot},
                      problem_, workspace_, &params_));
    lacks_tangent_ = false;
    general_ = false;
    return absl::OkStatus();
  }

  absl::Status Bind(const std::optional<MutableTensorView>& view, OutputRows* rows) {
    if (!view.has_value()) return absl::OkStatus();
    absl::StatusOr<OutputRows> bound = staging_.Output(*view);
    if (bound.ok()) *rows = *bound;
    return bound.status();
  }

  absl::Status BindStatistics(const std::optional<MutableTensorView>& view, void** data) {
    if (!view.has_value()) return absl::OkStatus();
    absl::StatusOr<void*> bound = staging_.OutputStatistics(*view);
    if (bound.ok()) *data = *bound;
    return bound.status();
  }

  // The output of that name, or a buffer with its layout where it is absent.
  absl::StatusOr<MutableTensorView> OutputOrBuffer(const std::optional<MutableTensorView>& view,
                                                   std::string_view name) {
    if (view.has_value()) return *view;
    MutableTensorView buffer = OutputLayout(problem_, name);
    absl::StatusOr<void*> data = workspace_->Allocate(buffer.SizeBytes());
    if (!data.ok()) return data.status();
    buffer.data = *data;
    return buffer;
  }

  KernelKey KeyOf(KernelKind kind, bool general, bool lacks_tangent) const {
    KernelKey key = {
        kind,    arithmetic_,      static_cast<int>(std::max(params_.head_dim, params_.head_dim_v)),
        general, TangentSet::kAll, extended_};
    if (HasTangents(kind)) {
      if (general || lacks_tangent) {
        key.general = true;
        key.tangents = TangentSet::kSome;
      } else if (kind != KernelKind::kJvp && !inputs_.o_bar_dot.has_value()) {
        key.tangents = TangentSet::kInputs;
      }
    }
    return key;
  }

  // The variant that serves this problem; null if there is none. `may_map`: false for one that
  // needs no tensor maps.
  const KernelVariant* Find(const KernelKey& key, bool may_map = true) const {
    may_map = may_map && problem_.head_dim > 0 && problem_.head_dim_v > 0;
    return kernels_.Find(key, {.length = std::max(problem_.seq_q, problem_.seq_kv),
                               .is_causal = inputs_.options.is_causal,
                               .mapped = may_map && sm90a::CanMap(params_)});
  }
  const KernelVariant* Find(KernelKind kind, bool may_map = true) const {
    return Find(KeyOf(kind, general_, lacks_tangent_), may_map);
  }

  absl::Status Launch(KernelKind kind) {
    const KernelVariant* variant = Find(kind);
    if (variant != nullptr) params_.nan_flags = NextNanFlags(variant->key_rows);
    if (kind == KernelKind::kVjp) params_.q_bar_nan_flags = NextNanFlags(/*key_rows=*/false);
    return Launch(variant);
  }

  absl::Status Launch(const KernelVariant* variant) {
    if (variant == nullptr) return absl::InternalError("a kernel that was announced is missing");
    if (!names_.empty()) names_ += '+';
    names_ += variant->name;
    return CudaStatus(LaunchKernel(*variant, params_, workspace_->stream()), variant->name);
  }

  // The row sums alone, of the rows whose saved lse is not exact enough. Most blocks find no such
  // row and return at once, which costs least where several share a multiprocessor: hence no tensor
  // maps. Both generations sum products alike, bit for bit (docs/decisions/0009).
  absl::Status LaunchRowSums() {
    params_.nan_flags = nullptr;
    return Launch(Find(KernelKind::kForward, /*may_map=*/false));
  }

  // Where limits make tiles of unequal length. Kernels that need no counter leave it alone.
  absl::Status ProvideTileCounter() {
    if (general_ || !(inputs_.options.is_causal || inputs_.options.window.has_value())) {
      return absl::OkStatus();
    }
    const absl::StatusOr<void*> counter = workspace_->Allocate(sizeof(*params_.tile_counter));
    if (counter.ok()) params_.tile_counter = static_cast<std::uint32_t*>(*counter);
    return counter.status();
  }

  // Room for the flags of two kernels of queries and two of keys, the most that a call launches
  // with outputs that may be spoiled.
  absl::Status ProvideNanFlags() {
    const std::int64_t of_queries = problem_.batch * problem_.heads_q * NanGroups(problem_.seq_q);
    const std::int64_t of_keys = problem_.batch * problem_.heads_kv * NanGroups(problem_.seq_kv);
    const absl::StatusOr<void*> flags = workspace_->Allocate(
        static_cast<std::size_t>(2 * (of_queries + of_keys)) * sizeof(std::uint32_t));
    if (!flags.ok()) return flags.status();
    auto* words = static_cast<std::uint32_t*>(*flags);
    nan_flags_ = {words, words + of_queries, words + 2 * of_queries,
                  words + 2 * of_queries + of_keys};
    return absl::OkStatus();
  }

  // Where the next kernel notes NaN; null where none can be false.
  std::uint32_t* NextNanFlags(bool key_rows) {
    if (nan_flags_[0] == nullptr) return nullptr;
    const std::uint32_t** used = key_rows ? recompute_.key_flags : recompute_.query_flags;
    const int index = used[0] == nullptr ? 0 : 1;
    std::uint32_t* flags = nan_flags_[(key_rows ? 2 : 0) + index];
    used[index] = flags;
    return flags;
  }

  absl::Status Recompute() {
    if (nan_flags_[0] == nullptr) return absl::OkStatus();
    recompute_.attention = params_;
    return CudaStatus(LaunchRecompute(recompute_, problem_.dtype, workspace_->stream()),
                      "recomputation");
  }

  // From the statistics as Recompute leaves them: those of rows with NaN in forbidden pairs are
  // right only then.
  absl::Status BiasGradients() {
    const auto view = [](const std::optional<MutableTensorView>& output) {
      return output.has_value() ? &*output : nullptr;
    };
    const cuda::BiasGradients gradients =
        MakeBiasGradients(view(outputs_.bias_bar), view(outputs_.bias_bar_dot));
    void* parts = nullptr;
    if (const std::size_t bytes = BiasPartsBytes(arithmetic_, params_, gradients); bytes > 0) {
      const absl::StatusOr<void*> allocated = workspace_->Allocate(bytes);
      if (!allocated.ok()) return allocated.status();
      parts = *allocated;
    }
    names_ += Message(names_.empty() ? "" : "+", "bias_gradient_", ArithmeticName(arithmetic_));
    return CudaStatus(
        LaunchBiasGradients(arithmetic_, params_, gradients, parts, workspace_->stream()),
        "bias gradients");
  }

  absl::Status Forward() {
    THERIA_RETURN_IF_ERROR(Bind(outputs_.o, &params_.o_out));
    THERIA_RETURN_IF_ERROR(BindStatistics(outputs_.lse, &params_.lse));
    return Launch(KernelKind::kForward);
  }

  absl::Status Jvp() {
    THERIA_RETURN_IF_ERROR(Bind(outputs_.o, &params_.o_out));
    THERIA_RETURN_IF_ERROR(Bind(outputs_.o_dot, &params_.o_dot_out));
    THERIA_RETURN_IF_ERROR(BindStatistics(outputs_.lse, &params_.lse));
    THERIA_RETURN_IF_ERROR(BindStatistics(outputs_.lse_dot, &params_.lse_dot));
    return Launch(KernelKind::kJvp);
  }

  absl::Status ProvideRowSums() {
    const auto rows = static_cast<std::size_t>(problem_.batch * problem_.heads_q * problem_.seq_q);
    const absl::StatusOr<void*> sums =
        workspace_->Allocate(2 * rows * ItemSizeBytes(StatisticsDType(problem_.dtype)));
    if (sums.ok()) params_.row_sums = *sums;
    return sums.status();
  }

  // o and the row sums. An earlier forward's o is used where given, and its lse for the rows where
  // that is exact enough; the row sums of the others are computed again.
  absl::Status ProvideForward() {
    THERIA_RETURN_IF_ERROR(ProvideRowSums());
    if (!inputs_.o.has_value()) {
      const absl::StatusOr<MutableTensorView> o = OutputOrBuffer(outputs_.o, "o");
      if (!o.ok()) return o.status();
      THERIA_RETURN_IF_ERROR(Bind(*o, &params_.o_out));
      THERIA_RETURN_IF_ERROR(BindStatistics(outputs_.lse, &params_.lse));
      THERIA_RETURN_IF_ERROR(Launch(KernelKind::kForward));
      Reread(params_.o_out, &params_.o);
      return absl::OkStatus();
    }
    if (RoundsProbabilities(arithmetic_)) {
      const absl::StatusOr<void*> lse = staging_.InputStatistics(*inputs_.lse);
      if (!lse.ok()) return lse.status();
      params_.saved_lse = *lse;
    }
    THERIA_RETURN_IF_ERROR(LaunchRowSums());
    const absl::StatusOr<InputRows> o = staging_.Input(*inputs_.o);
    if (!o.ok()) return o.status();
    params_.o = *o;
    if (outputs_.o.has_value()) {
      THERIA_CUDA_RETURN_IF_ERROR(CopyStrided(*outputs_.o, *inputs_.o, workspace_->stream()));
    }
    if (outputs_.lse.has_value()) {
      THERIA_CUDA_RETURN_IF_ERROR(CopyStrided(*outputs_.lse, *inputs_.lse, workspace_->stream()));
    }
    return absl::OkStatus();
  }

  // o, the row sums and their tangents: one JVP gives them all.
  absl::Status ProvideJvp() {
    THERIA_RETURN_IF_ERROR(ProvideRowSums());
    const absl::StatusOr<MutableTensorView> o = OutputOrBuffer(outputs_.o, "o");
    if (!o.ok()) return o.status();
    const absl::StatusOr<MutableTensorView> o_dot = OutputOrBuffer(outputs_.o_dot, "o_dot");
    if (!o_dot.ok()) return o_dot.status();
    const absl::StatusOr<MutableTensorView> lse_dot = OutputOrBuffer(outputs_.lse_dot, "lse_dot");
    if (!lse_dot.ok()) return lse_dot.status();
    THERIA_RETURN_IF_ERROR(Bind(*o, &params_.o_out));
    THERIA_RETURN_IF_ERROR(Bind(*o_dot, &params_.o_dot_out));
    THERIA_RETURN_IF_ERROR(BindStatistics(outputs_.lse, &params_.lse));
    THERIA_RETURN_IF_ERROR(BindStatistics(*lse_dot, &params_.lse_dot));
    THERIA_RETURN_IF_ERROR(Launch(KernelKind::kJvp));
    Reread(params_.o_out, &params_.o);
    Reread(params_.o_dot_out, &params_.o_dot);
    return absl::OkStatus();
  }

  static void Reread(const OutputRows& written, InputRows* rows) {
    *rows = {written.data, written.batch_stride, written.head_stride, written.row_stride};
  }

  // For `one_pass` too, a variant of kVjp, where it is not null: then the pass zeroes the sum of
  // q_bar as well.
  absl::Status ProvideStatistics(const KernelVariant* one_pass = nullptr) {
    if (one_pass != nullptr) {
      const std::int64_t elements = QBarSumElements(*one_pass, params_);
      const absl::StatusOr<void*> sum =
          workspace_->Allocate(static_cast<std::size_t>(elements) * sizeof(float));
      if (!sum.ok()) return sum.status();
      params_.q_bar_sum = static_cast<float*>(*sum);
      params_.q_bar_sum_columns = one_pass->q_bar_sum_columns;
    }
    const std::size_t accumulator_bytes = ItemSizeBytes(StatisticsDType(problem_.dtype));
    const auto rows = static_cast<std::size_t>(problem_.batch * problem_.heads_q *
                                               StatisticsRows(problem_.seq_q));
    const absl::StatusOr<void*> statistics =
        workspace_->Allocate(rows * 5 * accumulator_bytes + rows / kStatisticsRowsPerBlock);
    if (!statistics.ok()) return statistics.status();
    auto* bytes = static_cast<std::uint8_t*>(*statistics);
    params_.statistics = bytes;
    params_.inverse_sums = bytes + rows * 4 * accumulator_bytes;
    params_.unfolded = bytes + rows * 5 * accumulator_bytes;
    return CudaStatus(LaunchStatistics(arithmetic_, params_, workspace_->stream()),
                      "row statistics");
  }

  absl::Status BindGradients() {
    THERIA_RETURN_IF_ERROR(Bind(outputs_.q_bar, &params_.q_bar));
    THERIA_RETURN_IF_ERROR(Bind(outputs_.k_bar, &params_.k_bar));
    return Bind(outputs_.v_bar, &params_.v_bar);
  }

  // The kernel that gives q_bar, k_bar and v_bar in one pass over the scores, with five products
  // instead of the seven of the two others; null where those serve. It needs float32 workspace of
  // twice the bytes of q, and the order of q_bar's sums changes from run to run. Short sequences
  // keep the two kernels: one pass gains little there, and coalesced calls have the bits of a lone
  // one. So do head dimensions that only the two kernels serve without padding.
  const KernelVariant* FindOnePassVjp() const {
    if (inputs_.options.deterministic || general_ || !outputs_.q_bar.has_value()) return nullptr;
    if (std::min(problem_.seq_q, problem_.seq_kv) < kOnePassVjpLength) return nullptr;
    const KernelVariant* one_pass = Find(KernelKind::kVjp);
    const KernelVariant* keys = Find(KernelKind::kVjpKeys);
    const bool is_padded =
        one_pass != nullptr && keys != nullptr && keys->key.dim < one_pass->key.dim;
    return is_padded ? nullptr : one_pass;
  }

  absl::Status Vjp() {
    const bool wants_keys = outputs_.k_bar.has_value() || outputs_.v_bar.has_value();
    THERIA_RETURN_IF_ERROR(ProvideForward());
    THERIA_RETURN_IF_ERROR(BindGradients());
    if (!wants_keys && !outputs_.q_bar.has_value() && !wants_bias()) return absl::OkStatus();
    const KernelVariant* one_pass = wants_keys ? FindOnePassVjp() : nullptr;
    THERIA_RETURN_IF_ERROR(ProvideStatistics(one_pass));
    if (one_pass != nullptr) return Launch(KernelKind::kVjp);
    if (outputs_.q_bar.has_value()) THERIA_RETURN_IF_ERROR(Launch(KernelKind::kVjpQueries));
    if (wants_keys) THERIA_RETURN_IF_ERROR(Launch(KernelKind::kVjpKeys));
    return absl::OkStatus();
  }

  absl::Status Hvp() {
    const bool wants_keys = outputs_.k_bar.has_value() || outputs_.v_bar.has_value();
    const bool wants_keys_dot = outputs_.k_bar_dot.has_value() || outputs_.v_bar_dot.has_value();
    THERIA_RETURN_IF_ERROR(ProvideJvp());
    THERIA_RETURN_IF_ERROR(BindGradients());
    THERIA_RETURN_IF_ERROR(Bind(outputs_.q_bar_dot, &params_.q_bar_dot));
    THERIA_RETURN_IF_ERROR(Bind(outputs_.k_bar_dot, &params_.k_bar_dot));
    THERIA_RETURN_IF_ERROR(Bind(outputs_.v_bar_dot, &params_.v_bar_dot));
    THERIA_RETURN_IF_ERROR(ProvideStatistics());
    if (outputs_.q_bar_dot.has_value()) {
      THERIA_RETURN_IF_ERROR(Launch(KernelKind::kHvpQueries));  // gives q_bar too
    } else if (outputs_.q_bar.has_value()) {
      THERIA_RETURN_IF_ERROR(Launch(KernelKind::kVjpQueries));
    }
    if (wants_keys_dot) THERIA_RETURN_IF_ERROR(Launch(KernelKind::kHvpKeys));
    const KernelVariant* hvp_keys = Find(KernelKind::kHvpKeys);
    const bool keys_done =
        wants_keys_dot && hvp_keys != nullptr &&
        HvpKeysHasPrimal(static_cast<int>(ItemSizeBytes(problem_.dtype)), hvp_keys->key.dim);
    if (wants_keys && !keys_done) THERIA_RETURN_IF_ERROR(Launch(KernelKind::kVjpKeys));
    return absl::OkStatus();
  }

  const AttentionProblem& problem_;
  const AttentionInputs& inputs_;
  const AttentionOutputs& outputs_;
  const KernelChooser& kernels_;
  Workspace* workspace_;
  Staging staging_;
  bool extended_;
  Arithmetic arithmetic_;
  bool lacks_tangent_;
  bool general_;
  AttentionParams params_ = {};
  std::array<std::uint32_t*, 4> nan_flags_ = {};
  RecomputeParams recompute_ = {};
  std::string names_;
};

}  // namespace

absl::StatusOr<std::string> EnqueueFused(const AttentionProblem& problem,
                                         const AttentionInputs& inputs,
                                         const AttentionOutputs& outputs,
                                         const KernelChooser& kernels, Workspace* workspace) {
  if (!problem.has_scores()) {
    const absl::Status status = EnqueueEmptyResults(outputs, workspace->stream());
    if (!status.ok()) return status;
    return std::string("empty");
  }
  return FusedRun(problem, inputs, outputs, kernels, workspace).Enqueue();
}

}  // namespace theria::cuda
