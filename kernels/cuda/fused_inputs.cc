#include "kernels/cuda/fused_inputs.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdint>
#include <optional>

#include "kernels/cuda/attention/row_keys.h"
#include "kernels/cuda/fused_choice.h"
#include "kernels/cuda/runtime/cuda_check.h"

namespace theria::cuda {
namespace {

struct Input {
  std::optional<TensorView> AttentionInputs::*view;
  InputRows AttentionParams::*rows;
};
constexpr Input kInputs[] = {
    {&AttentionInputs::q, &AttentionParams::q},
    {&AttentionInputs::k, &AttentionParams::k},
    {&AttentionInputs::v, &AttentionParams::v},
    {&AttentionInputs::q_dot, &AttentionParams::q_dot},
    {&AttentionInputs::k_dot, &AttentionParams::k_dot},
    {&AttentionInputs::v_dot, &AttentionParams::v_dot},
    {&AttentionInputs::o_bar, &AttentionParams::o_bar},
    {&AttentionInputs::o_bar_dot, &AttentionParams::o_bar_dot},
};

struct Statistics {
  std::optional<TensorView> AttentionInputs::*view;
  const void* AttentionParams::*data;
};
constexpr Statistics kStatistics[] = {
    {&AttentionInputs::lse_bar, &AttentionParams::lse_bar},
    {&AttentionInputs::lse_bar_dot, &AttentionParams::lse_bar_dot},
};

void BindSizes(const AttentionProblem& problem, AttentionParams* params) {
  params->batch = static_cast<std::int32_t>(problem.batch);
  params->heads_q = static_cast<std::int32_t>(problem.heads_q);
  params->heads_kv = static_cast<std::int32_t>(problem.heads_kv);
  params->group = static_cast<std::int32_t>(problem.group());
  params->seq_q = static_cast<std::int32_t>(problem.seq_q);
  params->seq_kv = static_cast<std::int32_t>(problem.seq_kv);
  params->head_dim = static_cast<std::int32_t>(PaddedColumns(problem.head_dim, problem.dtype));
  params->head_dim_v = static_cast<std::int32_t>(PaddedColumns(problem.head_dim_v, problem.dtype));
  params->scale = problem.scale;
}

}  // namespace

absl::Status BindInputs(const AttentionProblem& problem, const AttentionInputs& inputs,
                        Workspace* workspace, Staging* staging, AttentionParams* params) {
  BindSizes(problem, params);
  params->score_mod = MakeScoreMod(problem, inputs.options);
  if (!NeedsExtended(inputs.options)) FoldAlignment(&params->score_mod);
  for (const Input& input : kInputs) {
    const std::optional<TensorView>& view = inputs.*input.view;
    if (!view.has_value()) continue;
    const absl::StatusOr<InputRows> rows = staging->Input(*view);
    if (!rows.ok()) return rows.status();
    params->*input.rows = *rows;
  }
  for (const Statistics& statistics : kStatistics) {
    const std::optional<TensorView>& view = inputs.*statistics.view;
    if (!view.has_value()) continue;
    const absl::StatusOr<void*> data = staging->InputStatistics(*view);
    if (!data.ok()) return data.status();
    params->*statistics.data = *data;
  }
  if (inputs.bias_dot.has_value()) {
    const TensorView& bias_dot = *inputs.bias_dot;
    params->bias_dot = bias_dot.data;
    for (int axis = 0; axis < bias_dot.rank; ++axis) {
      params->bias_dot_strides[kMaxRank - bias_dot.rank + axis] =
          bias_dot.shape[axis] == 1 ? 0 : bias_dot.strides[axis];
    }
  }
  const bool is_reverse =
      problem.operation == Operation::kVjp || problem.operation == Operation::kHvp;
  if (!is_reverse || inputs.o_bar.has_value()) return absl::OkStatus();
  return FillWithZeros({&AttentionParams::o_bar}, problem, workspace, params);
}

absl::Status FillWithZeros(std::initializer_list<InputRows AttentionParams::*> tensors,
                           const AttentionProblem& problem, Workspace* workspace,
                           AttentionParams* params) {
  const auto rows_of = [&](InputRows AttentionParams::*tensor, const void* data) -> InputRows {
    const bool of_keys = tensor == &AttentionParams::k_dot || tensor == &AttentionParams::v_dot;
    const bool of_values = tensor == &AttentionParams::v_dot || tensor == &AttentionParams::o_bar;
    const std::int64_t columns = of_values ? params->head_dim_v : params->head_dim;
    const std::int64_t of_head = (of_keys ? params->seq_kv : params->seq_q) * columns;
    return {data, of_head * (of_keys ? params->heads_kv : params->heads_q), of_head, columns};
  };
  std::int64_t elements = 0;
  for (InputRows AttentionParams::*tensor : tensors) {
    if ((params->*tensor).data != nullptr) continue;
    elements = std::max(elements, rows_of(tensor, nullptr).batch_stride * params->batch);
  }
  const std::size_t bytes = static_cast<std::size_t>(elements) * ItemSizeBytes(problem.dtype);
  const absl::StatusOr<void*> zeros = workspace->Allocate(bytes);
  if (!zeros.ok()) return zeros.status();
  THERIA_CUDA_RETURN_IF_ERROR(cudaMemsetAsync(*zeros, 0, bytes, workspace->stream()));
  for (InputRows AttentionParams::*tensor : tensors) {
    if ((params->*tensor).data == nullptr) params->*tensor = rows_of(tensor, *zeros);
  }
  return absl::OkStatus();
}

absl::Status ProvideRowKeys(Workspace* workspace, AttentionParams* params) {
  const auto rows = static_cast<std::size_t>(std::int64_t{params->batch} * params->seq_q);
  const auto keys = static_cast<std::size_t>(std::int64_t{params->batch} * params->seq_kv);
  const absl::StatusOr<void*> row_keys = workspace->Allocate(rows * sizeof(RowKeys));
  if (!row_keys.ok()) return row_keys.status();
  const absl::StatusOr<void*> key_queries = workspace->Allocate(keys * sizeof(KeyQueries));
  if (!key_queries.ok()) return key_queries.status();
  params->row_keys = static_cast<RowKeys*>(*row_keys);
  params->key_queries = static_cast<KeyQueries*>(*key_queries);
  return CudaStatus(LaunchRowKeys(*params, static_cast<RowKeys*>(*row_keys),
                                  static_cast<KeyQueries*>(*key_queries), workspace->stream()),
                    "key ranges");
}

}  // namespace theria::cuda
