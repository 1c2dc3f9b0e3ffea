#ifndef THERIA_KERNELS_CUDA_ATTENTION_ROW_KEYS_H_
#define THERIA_KERNELS_CUDA_ATTENTION_ROW_KEYS_H_

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention/params.h"

namespace theria::cuda {

// Enqueues the pass that fills row_keys and key_queries, both [batch, seq] as params.h says, from
// params.score_mod. The bounds of valid options never decrease along a sequence; those of a query
// without keys stay between its neighbours'. Kernels so find the range of a tile in that of its
// first and its last row. Whatever kv_lengths and cu_seqlens hold, all bounds lie within the
// sequences. Asynchronous on `stream`, does not synchronise.
cudaError_t LaunchRowKeys(const AttentionParams& params, RowKeys* row_keys, KeyQueries* key_queries,
                          cudaStream_t stream);

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_ROW_KEYS_H_
