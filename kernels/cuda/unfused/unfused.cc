#include "kernels/cuda/unfused/unfused.h"

#include <cuda_runtime.h>

#include <cstdint>
#include <limits>
#include <optional>

#include "kernels/api/message.h"
#include "kernels/cuda/empty_results.h"
#include "kernels/cuda/runtime/cuda_check.h"
#include "kernels/cuda/unfused/convert.h"
#include "kernels/cuda/unfused/row_derivatives.h"
#include "kernels/cuda/unfused/skip_forbidden.h"

#define THERIA_RETURN_IF_ERROR(expression)     \
  do {                                         \
    const absl::Status status_ = (expression); \
    if (!status_.ok()) return status_;         \
  } while (false)

namespace theria::cuda {
namespace {

// [batch * heads_kv] row-major matrices of `rows` x `columns`, in the compute dtype. The queries of
// a group lie one after the other, so that a group is one matrix of group * seq_q rows and sums
// over it are inner dimensions.
struct Matrices {
  void* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  explicit operator bool() const { return data != nullptr; }
};

// Strides of a tensor that broadcasts to rank 4, 0 where it does.
template <typename Void>
void BroadcastStrides(const BasicTensorView<Void>& view, std::int64_t (&strides)[kMaxRank]) {
  for (int axis = 0; axis < kMaxRank; ++axis) {
    const int own = axis - (kMaxRank - view.rank);
    strides[axis] = own < 0 || view.shape[own] == 1 ? 0 : view.strides[own];
  }
}

class UnfusedRun {
 public:
  UnfusedRun(const AttentionProblem& problem, const AttentionInputs& inputs,
             const AttentionOutputs& outputs, cublasHandle_t handle, Workspace* workspace)
      : problem_(problem),
        inputs_(inputs),
        outputs_(outputs),
        handle_(handle),
        workspace_(workspace),
        dtype_(StatisticsDType(problem.dtype)) {}

  absl::StatusOr<std::string> Enqueue() {
    THERIA_RETURN_IF_ERROR(
        CublasStatus(Cublas::Get().set_stream(handle_, workspace_->stream()), "cublasSetStream"));
    THERIA_RETURN_IF_ERROR(Read());
    THERIA_RETURN_IF_ERROR(ScoreMatrices());
    THERIA_RETURN_IF_ERROR(RowDerivatives());
    THERIA_RETURN_IF_ERROR(BiasGradient(outputs_.bias_bar, p_bar_));
    THERIA_RETURN_IF_ERROR(BiasGradient(outputs_.bias_bar_dot, p_bar_dot_));
    THERIA_RETURN_IF_ERROR(PullThroughCap());
    THERIA_RETURN_IF_ERROR(Results());
    return Message("cublas_unfused_", OperationName(problem_.operation));
  }

 private:
  std::int64_t QueryRows() const { return problem_.group() * problem_.seq_q; }
  bool has_cotangent() const {
    return problem_.operation == Operation::kVjp || problem_.operation == Operation::kHvp;
  }
  bool has_tangent() const {
    return problem_.operation == Operation::kJvp || problem_.operation == Operation::kHvp;
  }

  absl::StatusOr<Matrices> Allocate(std::int64_t rows, std::int64_t columns) {
    const auto count =
        static_cast<std::size_t>(problem_.batch * problem_.heads_kv * rows * columns);
    absl::StatusOr<void*> data = workspace_->Allocate(count * ItemSizeBytes(dtype_));
    if (!data.ok()) return data.status();
    return Matrices{*data, rows, columns};
  }

  absl::Status Read(const std::optional<TensorView>& view, std::int64_t rows, Matrices* matrices) {
    if (!view.has_value()) return absl::OkStatus();
    absl::StatusOr<Matrices> packed = Allocate(rows, view->shape[3]);
    if (!packed.ok()) return packed.status();
    *matrices = *packed;
    MutableTensorView destination = RowMajorView<void>(
        packed->data, dtype_, {view->shape[0], view->shape[1], view->shape[2], view->shape[3]});
    return CudaStatus(ConvertStrided(destination, *view, workspace_->stream()), "read a tensor");
  }

  absl::Status Read() {
    const std::int64_t rows = QueryRows();
    THERIA_RETURN_IF_ERROR(Read(inputs_.q, rows, &q_));
    THERIA_RETURN_IF_ERROR(Read(inputs_.k, problem_.seq_kv, &k_));
    THERIA_RETURN_IF_ERROR(Read(inputs_.v, problem_.seq_kv, &v_));
    THERIA_RETURN_IF_ERROR(Read(inputs_.q_dot, rows, &q_dot_));
    THERIA_RETURN_IF_ERROR(Read(inputs_.k_dot, problem_.seq_kv, &k_dot_));
    THERIA_RETURN_IF_ERROR(Read(inputs_.v_dot, problem_.seq_kv, &v_dot_));
    THERIA_RETURN_IF_ERROR(Read(inputs_.o_bar, rows, &o_bar_));
    return Read(inputs_.o_bar_dot, rows, &o_bar_dot_);
  }

  // c = alpha * op(a) op(b) + beta * c, op transposing where asked.
  absl::Status Multiply(const Matrices& a, bool transpose_a, const Matrices& b, bool transpose_b,
                        double alpha, double beta, const Matrices& c) {
    const std::int64_t inner = transpose_a ? a.rows : a.columns;
    if (c.columns == 0) return absl::OkStatus();
    if (inner == 0) return beta == 0.0 ? Clear(c) : absl::OkStatus();
    const bool is_double = dtype_ == DType::kFloat64;
    const cudaDataType_t type = is_double ? CUDA_R_64F : CUDA_R_32F;
    const cublasComputeType_t compute =
        is_double ? CUBLAS_COMPUTE_64F
                  : (inputs_.options.precision == Precision::kFast ? CUBLAS_COMPUTE_32F_FAST_TF32
                                                                   : CUBLAS_COMPUTE_32F);
    const auto alpha_f = static_cast<float>(alpha);
    const auto beta_f = static_cast<float>(beta);
    const void* alpha_pointer = is_double ? static_cast<const void*>(&alpha) : &alpha_f;
    const void* beta_pointer = is_double ? static_cast<const void*>(&beta) : &beta_f;
    // cuBLAS counts by columns: what it sees are the transposes, and c^T = op(b)^T op(a)^T.
    return CublasStatus(
        Cublas::Get().gemm_strided_batched(
            handle_, transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N,
            transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, static_cast<int>(c.columns),
            static_cast<int>(c.rows), static_cast<int>(inner), alpha_pointer, b.data, type,
            static_cast<int>(b.columns), b.rows * b.columns, a.data, type,
            static_cast<int>(a.columns), a.rows * a.columns, beta_pointer, c.data, type,
            static_cast<int>(c.columns), c.rows * c.columns,
            static_cast<int>(problem_.batch * problem_.heads_kv), compute, CUBLAS_GEMM_DEFAULT),
        "cublasGemmStridedBatchedEx");
  }

  // The sum of op(a) op(b) over the pairs whose factors are present; `c` stays empty if none is.
  struct Pair {
    const Matrices& a;
    const Matrices& b;
  };
  absl::Status SumOfProducts(std::initializer_list<Pair> pairs, bool transpose_a, bool transpose_b,
                             double alpha, std::int64_t rows, std::int64_t columns, Matrices* c) {
    for (const Pair& pair : pairs) {
      if (!pair.a || !pair.b) continue;
      const bool first = !*c;
      if (first) {
        absl::StatusOr<Matrices> allocated = Allocate(rows, columns);
        if (!allocated.ok()) return allocated.status();
        *c = *allocated;
      }
      THERIA_RETURN_IF_ERROR(
          Multiply(pair.a, transpose_a, pair.b, transpose_b, alpha, first ? 0.0 : 1.0, *c));
    }
    return absl::OkStatus();
  }

  absl::Status ScoreMatrices() {
    const std::int64_t rows = QueryRows();
    const std::int64_t columns = problem_.seq_kv;
    THERIA_RETURN_IF_ERROR(SumOfProducts({{q_, k_}}, false, true, 1.0, rows, columns, &s_));
    THERIA_RETURN_IF_ERROR(
        SumOfProducts({{q_dot_, k_}, {q_, k_dot_}}, false, true, 1.0, rows, columns, &s_dot_));
    if (inputs_.bias_dot.has_value()) THERIA_RETURN_IF_ERROR(ProvideZeros(&s_dot_));
    if (!has_cotangent()) return absl::OkStatus();
    THERIA_RETURN_IF_ERROR(SumOfProducts({{o_bar_, v_}}, false, true, 1.0, rows, columns, &p_bar_));
    THERIA_RETURN_IF_ERROR(ProvideZeros(&p_bar_));
    if (problem_.operation != Operation::kHvp) return absl::OkStatus();
    THERIA_RETURN_IF_ERROR(SumOfProducts({{o_bar_dot_, v_}, {o_bar_, v_dot_}}, false, true, 1.0,
                                         rows, columns, &p_bar_dot_));
    return ProvideZeros(&p_bar_dot_);
  }

  // A matrix of scores that no product contributes to starts from zero where something else does:
  // the bias to S_dot, lse to S_bar, S_dot to S_bar_dot.
  absl::Status ProvideZeros(Matrices* matrices) {
    if (*matrices) return absl::OkStatus();
    absl::StatusOr<Matrices> zero = Allocate(QueryRows(), problem_.seq_kv);
    if (!zero.ok()) return zero.status();
    *matrices = *zero;
    return Clear(*zero);
  }

  absl::Status Clear(const Matrices& matrices) {
    const auto count = static_cast<std::size_t>(problem_.batch * problem_.heads_kv * matrices.rows *
                                                matrices.columns);
    return CudaStatus(
        cudaMemsetAsync(matrices.data, 0, count * ItemSizeBytes(dtype_), workspace_->stream()),
        "cudaMemsetAsync");
  }

  absl::Status RowDerivatives() {
    absl::StatusOr<Matrices> lse = Allocate(QueryRows(), 1);
    if (!lse.ok()) return lse.status();
    lse_ = *lse;
    absl::StatusOr<Matrices> lse_dot = Allocate(QueryRows(), 1);
    if (!lse_dot.ok()) return lse_dot.status();
    lse_dot_ = *lse_dot;
    if (has_cotangent() && inputs_.options.softcap.has_value()) {
      for (Matrices* slope : {&w_, &w_dot_}) {
        if (slope == &w_dot_ && !s_dot_) continue;
        absl::StatusOr<Matrices> allocated = Allocate(QueryRows(), problem_.seq_kv);
        if (!allocated.ok()) return allocated.status();
        *slope = *allocated;
      }
    }
    THERIA_RETURN_IF_ERROR(ReadStatistics(inputs_.lse_bar, &lse_bar_));
    THERIA_RETURN_IF_ERROR(ReadStatistics(inputs_.lse_bar_dot, &lse_bar_dot_));
    return CudaStatus(LaunchRowDerivatives(Derivatives(), dtype_, workspace_->stream()),
                      "row derivatives");
  }

  absl::Status ReadStatistics(const std::optional<TensorView>& view, Matrices* statistics) {
    if (!view.has_value()) return absl::OkStatus();
    absl::StatusOr<Matrices> packed = Allocate(QueryRows(), 1);
    if (!packed.ok()) return packed.status();
    *statistics = *packed;
    const MutableTensorView destination =
        RowMajorView<void>(packed->data, dtype_, {view->shape[0], view->shape[1], view->shape[2]});
    return CudaStatus(ConvertStrided(destination, *view, workspace_->stream()), "read a tensor");
  }

  RowDerivativesParams Derivatives() const {
    RowDerivativesParams params = {};
    params.s = s_.data;
    params.s_dot = s_dot_.data;
    params.p_bar = p_bar_.data;
    params.p_bar_dot = p_bar_dot_.data;
    params.w = w_.data;
    params.w_dot = w_dot_.data;
    params.lse = lse_.data;
    params.lse_dot = lse_dot_.data;
    params.lse_bar = lse_bar_.data;
    params.lse_bar_dot = lse_bar_dot_.data;
    if (inputs_.bias_dot.has_value()) {
      params.bias_dot = inputs_.bias_dot->data;
      BroadcastStrides(*inputs_.bias_dot, params.bias_dot_strides);
    }
    params.batch = problem_.batch;
    params.heads_q = problem_.heads_q;
    params.seq_q = problem_.seq_q;
    params.seq_kv = problem_.seq_kv;
    params.scale = problem_.scale;
    params.score_mod = MakeScoreMod(problem_, inputs_.options);
    return params;
  }

  // Before PullThroughCap, while `matrices` is S_bar or S_bar_dot.
  absl::Status BiasGradient(const std::optional<MutableTensorView>& view,
                            const Matrices& matrices) {
    if (!view.has_value()) return absl::OkStatus();
    BiasSumParams params = {};
    params.matrix = matrices.data;
    params.data = view->data;
    params.data_dtype = view->dtype;
    for (int axis = 0; axis < kMaxRank; ++axis) {
      const int own = axis - (kMaxRank - view->rank);
      params.extents[axis] = own < 0 ? 1 : view->shape[own];
    }
    BroadcastStrides(*view, params.strides);
    params.batch = problem_.batch;
    params.heads_q = problem_.heads_q;
    params.seq_q = problem_.seq_q;
    params.seq_kv = problem_.seq_kv;
    params.score_mod = MakeScoreMod(problem_, inputs_.options);
    return CudaStatus(LaunchBiasSum(params, dtype_, workspace_->stream()), "bias gradients");
  }

  absl::Status PullThroughCap() {
    if (!w_) return absl::OkStatus();
    return CudaStatus(LaunchPullThroughCap(Derivatives(), dtype_, workspace_->stream()),
                      "derivatives of the soft cap");
  }

  absl::Status SkipForbidden(std::initializer_list<Pair> pairs, bool of_keys, double alpha,
                             const Matrices& result) {
    WeightedSumParams params = {};
    int count = 0;
    for (const Pair& pair : pairs) {
      if (!pair.a || !pair.b) continue;
      params.a[count] = pair.a.data;
      params.b[count++] = pair.b.data;
    }
    params.c = result.data;
    params.of_keys = of_keys;
    params.alpha = alpha;
    params.batch = problem_.batch;
    params.heads_kv = problem_.heads_kv;
    params.group = problem_.group();
    params.seq_q = problem_.seq_q;
    params.seq_kv = problem_.seq_kv;
    params.columns = result.columns;
    params.score_mod = MakeScoreMod(problem_, inputs_.options);
    return CudaStatus(LaunchSkipForbidden(params, dtype_, workspace_->stream()),
                      "sums over visible pairs");
  }

  // Writes a result, zero where no product contributes to it.
  absl::Status Write(const std::optional<MutableTensorView>& view,
                     std::initializer_list<Pair> pairs, bool transpose_a, double alpha,
                     std::int64_t rows, std::int64_t columns) {
    if (!view.has_value()) return absl::OkStatus();
    Matrices result;
    THERIA_RETURN_IF_ERROR(SumOfProducts(pairs, transpose_a, false, alpha, rows, columns, &result));
    if (!result) {
      absl::StatusOr<Matrices> zero = Allocate(rows, columns);
      if (!zero.ok()) return zero.status();
      result = *zero;
      THERIA_RETURN_IF_ERROR(Clear(result));
    } else {
      THERIA_RETURN_IF_ERROR(SkipForbidden(pairs, transpose_a, alpha, result));
    }
    return Write(view, result);
  }

  absl::Status Write(const std::optional<MutableTensorView>& view, const Matrices& result) {
    if (!view.has_value()) return absl::OkStatus();
    TensorView source;
    source.data = result.data;
    source.dtype = dtype_;
    source.rank = view->rank;
    source.shape = view->shape;
    std::int64_t stride = 1;
    for (int axis = view->rank - 1; axis >= 0; --axis) {
      source.strides[axis] = stride;
      stride *= view->shape[axis];
    }
    return CudaStatus(ConvertStrided(*view, source, workspace_->stream()), "write a tensor");
  }

  absl::Status Results() {
    const std::int64_t rows = QueryRows();
    const std::int64_t keys = problem_.seq_kv;
    const std::int64_t dim = problem_.head_dim;
    const std::int64_t dim_v = problem_.head_dim_v;
    const double scale = problem_.scale;
    THERIA_RETURN_IF_ERROR(Write(outputs_.lse, lse_));
    THERIA_RETURN_IF_ERROR(Write(outputs_.o, {{s_, v_}}, false, 1.0, rows, dim_v));
    if (has_tangent()) {
      THERIA_RETURN_IF_ERROR(Write(outputs_.lse_dot, lse_dot_));
      THERIA_RETURN_IF_ERROR(
          Write(outputs_.o_dot, {{s_dot_, v_}, {s_, v_dot_}}, false, 1.0, rows, dim_v));
    }
    if (!has_cotangent()) return absl::OkStatus();
    THERIA_RETURN_IF_ERROR(Write(outputs_.q_bar, {{p_bar_, k_}}, false, scale, rows, dim));
    THERIA_RETURN_IF_ERROR(Write(outputs_.k_bar, {{p_bar_, q_}}, true, scale, keys, dim));
    THERIA_RETURN_IF_ERROR(Write(outputs_.v_bar, {{s_, o_bar_}}, true, 1.0, keys, dim_v));
    THERIA_RETURN_IF_ERROR(
        Write(outputs_.q_bar_dot, {{p_bar_dot_, k_}, {p_bar_, k_dot_}}, false, scale, rows, dim));
    THERIA_RETURN_IF_ERROR(
        Write(outputs_.k_bar_dot, {{p_bar_dot_, q_}, {p_bar_, q_dot_}}, true, scale, keys, dim));
    return Write(outputs_.v_bar_dot, {{s_dot_, o_bar_}, {s_, o_bar_dot_}}, true, 1.0, keys, dim_v);
  }

  const AttentionProblem& problem_;
  const AttentionInputs& inputs_;
  const AttentionOutputs& outputs_;
  cublasHandle_t handle_;
  Workspace* workspace_;
  DType dtype_;
  Matrices q_, k_, v_, q_dot_, k_dot_, v_dot_, o_bar_, o_bar_dot_;
  Matrices s_, s_dot_, p_bar_, p_bar_dot_, w_, w_dot_;
  Matrices lse_, lse_dot_, lse_bar_, lse_bar_dot_;
};

}  // namespace

absl::Status SupportsUnfused(const AttentionProblem& problem) {
  constexpr std::int64_t kMaxExtent = std::numeric_limits<int>::max();
  if (problem.group() * problem.seq_q > kMaxExtent || problem.seq_kv > kMaxExtent ||
      problem.batch * problem.heads_kv > kMaxExtent) {
    return absl::UnimplementedError(
        Message("the unfused implementation supports heads_q / heads_kv * seq_q, seq_kv and "
                "batch * heads_kv up to ",
                kMaxExtent));
  }
  return Cublas::Load().status();
}

absl::StatusOr<std::string> EnqueueUnfused(const AttentionProblem& problem,
                                           const AttentionInputs& inputs,
                                           const AttentionOutputs& outputs, cublasHandle_t handle,
                                           Workspace* workspace) {
  if (!problem.has_scores()) {
    const absl::Status status = EnqueueEmptyResults(outputs, workspace->stream());
    if (!status.ok()) return status;
    return std::string("empty");
  }
  return UnfusedRun(problem, inputs, outputs, handle, workspace).Enqueue();
}

}  // namespace theria::cuda
