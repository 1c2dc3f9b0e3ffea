#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "kernels/cuda/attention/row_keys.h"

namespace theria::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    RowKeysKernel(const __grid_constant__ AttentionParams params, RowKeys* row_keys) {
  const std::int64_t count = std::int64_t{params.batch} * params.seq_q;
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  const ScoreMod& mod = params.score_mod;
  const ScoreRow row = mod.Row(at / params.seq_q, at % params.seq_q);
  std::int64_t begin = row.keys.begin;
  std::int64_t end = row.keys.end;
  if (begin > end) {
    // A window that lies past the keys, or before them.
    const bool past = begin == row.diagonal - mod.window_left;
    (past ? begin : end) = past ? end : begin;
  }
  const auto bounded = [&](std::int64_t key) {
    return static_cast<std::int32_t>(key < 0 ? 0 : key > params.seq_kv ? params.seq_kv : key);
  };
  row_keys[at] = {bounded(begin), bounded(end), static_cast<std::int32_t>(row.diagonal), 0};
}

// The first query of a batch for which `is_past`, which holds from some query on; seq_q if none.
template <typename IsPast>
__device__ std::int32_t FirstQuery(const RowKeys* rows, std::int32_t seq_q, const IsPast& is_past) {
  std::int32_t low = 0;
  std::int32_t high = seq_q;
  while (low < high) {
    const std::int32_t middle = (low + high) / 2;
    if (is_past(rows[middle])) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

__global__ void __launch_bounds__(kThreads)
    KeyQueriesKernel(const __grid_constant__ AttentionParams params, const RowKeys* row_keys,
                     KeyQueries* key_queries) {
  const std::int64_t count = std::int64_t{params.batch} * params.seq_kv;
  const std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (at >= count) return;
  const auto key = static_cast<std::int32_t>(at % params.seq_kv);
  const RowKeys* rows = row_keys + at / params.seq_kv * params.seq_q;
  key_queries[at] = {
      FirstQuery(rows, params.seq_q, [&](const RowKeys& row) { return row.end > key; }),
      FirstQuery(rows, params.seq_q, [&](const RowKeys& row) { return row.begin > key; })};
}

}  // namespace

cudaError_t LaunchRowKeys(const AttentionParams& params, RowKeys* row_keys, KeyQueries* key_queries,
                          cudaStream_t stream) {
  const auto blocks = [&](std::int32_t rows) {
    return static_cast<unsigned>((std::int64_t{params.batch} * rows + kThreads - 1) / kThreads);
  };
  RowKeysKernel<<<blocks(params.seq_q), kThreads, 0, stream>>>(params, row_keys);
  KeyQueriesKernel<<<blocks(params.seq_kv), kThreads, 0, stream>>>(params, row_keys, key_queries);
  return cudaGetLastError();
}

}  // namespace theria::cuda
