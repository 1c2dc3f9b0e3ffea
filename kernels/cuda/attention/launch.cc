#include "kernels/cuda/attention/launch.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/cuda/attention/sm90a/tensor_maps.h"

namespace theria::cuda {
namespace {

// `params`: the kernel's one parameter.
template <typename Params>
cudaError_t Launch(const void* function, std::int64_t blocks, int threads, int shared_bytes,
                   const Params& params, cudaStream_t stream) {
  if (blocks > std::numeric_limits<std::int32_t>::max()) return cudaErrorInvalidConfiguration;
  void* arguments[] = {const_cast<Params*>(&params)};
  return cudaLaunchKernel(function, dim3(static_cast<unsigned>(blocks)),
                          dim3(static_cast<unsigned>(threads)), arguments,
                          static_cast<std::size_t>(shared_bytes), stream);
}

// Limits `blocks` to one for each multiprocessor where the variant is persistent, and says in which
// order they take their tiles. Tiles of unequal length are taken by whoever is free, of a section
// of heads the longest first: enough heads for few blocks to be without work at the end, and no
// more, so that what is read at once stays in L2. Equal ones are dealt out head by head.
cudaError_t ScheduleTiles(const KernelVariant& variant, const AttentionParams& params,
                          sm90a::Params* mapped, std::int64_t* blocks, cudaStream_t stream) {
  constexpr std::int64_t kSectionBlocks = 256;
  const std::int64_t rows = variant.key_rows ? params.seq_kv : params.seq_q;
  const std::int64_t tiles = (rows + variant.rows - 1) / variant.rows;
  const bool unequal = params.tile_counter != nullptr;
  mapped->section_heads =
      unequal ? static_cast<std::uint32_t>(std::max<std::int64_t>(kSectionBlocks / tiles, 1)) : 1;
  mapped->attention.tile_counter = nullptr;
  if (!variant.persistent) return cudaSuccess;
  int device = 0;
  int multiprocessors = 0;
  cudaError_t error = cudaGetDevice(&device);
  if (error == cudaSuccess) {
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  if (error != cudaSuccess || *blocks <= multiprocessors) return error;
  *blocks = multiprocessors;
  if (!unequal) return cudaSuccess;
  mapped->attention.tile_counter = params.tile_counter;
  return cudaMemsetAsync(params.tile_counter, 0, sizeof(*params.tile_counter), stream);
}

}  // namespace

cudaError_t LaunchKernel(const KernelVariant& variant, const AttentionParams& params,
                         cudaStream_t stream) {
  cudaError_t error = cudaFuncSetAttribute(
      variant.function, cudaFuncAttributeMaxDynamicSharedMemorySize, variant.shared_bytes);
  if (error != cudaSuccess) return error;
  const std::int64_t rows = variant.key_rows ? params.seq_kv : params.seq_q;
  const std::int64_t heads = variant.key_rows ? params.heads_kv : params.heads_q;
  const std::int64_t tiles = (rows + variant.rows - 1) / variant.rows;
  std::int64_t blocks = tiles * variant.slices * heads * params.batch;
  if (variant.generation == Generation::kSm80) {
    return Launch(variant.function, blocks, variant.threads, variant.shared_bytes, params, stream);
  }
  sm90a::Params mapped = {};
  error = sm90a::MakeParams(variant, params, &mapped);
  if (error != cudaSuccess) return error;
  error = ScheduleTiles(variant, params, &mapped, &blocks, stream);
  if (error != cudaSuccess) return error;
  error = Launch(variant.function, blocks, variant.threads, variant.shared_bytes, mapped, stream);
  if (error != cudaSuccess || variant.write_q_bar == nullptr) return error;
  const std::int64_t parts = QBarSumElements(variant, params) / variant.q_bar_part;
  return Launch(variant.write_q_bar, parts, 128, 0, params, stream);
}

std::int64_t QBarSumElements(const KernelVariant& variant, const AttentionParams& params) {
  return StatisticsRows(params.seq_q) * params.heads_q * static_cast<std::int64_t>(params.batch) *
         variant.q_bar_sum_columns;
}

cudaError_t LaunchStatistics(Arithmetic arithmetic, const AttentionParams& params,
                             cudaStream_t stream) {
  const void* function = FindStatisticsKernel(arithmetic);
  if (function == nullptr) return cudaErrorInvalidDeviceFunction;
  const std::int64_t rows =
      StatisticsRows(params.seq_q) * params.heads_q * static_cast<std::int64_t>(params.batch);
  constexpr int kRowsPerBlock = kStatisticsThreads / kStatisticsThreadsPerRow;
  static_assert(kStatisticsRowMultiple % kRowsPerBlock == 0);
  return Launch(function, rows / kRowsPerBlock, kStatisticsThreads, 0, params, stream);
}

}  // namespace theria::cuda
