#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "kernels/cuda/attention/forward.cuh"
#include "kernels/cuda/attention/hvp.cuh"
#include "kernels/cuda/attention/jvp.cuh"
#include "kernels/cuda/attention/launch.h"
#include "kernels/cuda/attention/vjp.cuh"
#include "kernels/cuda/attention/vjp_paired.cuh"
#include "kernels/cuda/primitives/sm80/mma_half.cuh"
#include "kernels/cuda/registry.h"

// Times candidate tile configurations of one kind of kernel and one head dimension in bfloat16, on
// one GPU; tile_config.h keeps the best. Compiled once for each pair:
//   -DTUNE_KIND=kForward -DTUNE_DIM=128 -DTUNE_CANDIDATES='{4, 2, 64, 2, 128, 2}, ...'

namespace theria::cuda {
namespace {

using Mma = sm80::MmaHalf<__nv_bfloat16>;
constexpr KernelKind kKind = KernelKind::TUNE_KIND;
constexpr int kDim = TUNE_DIM;
constexpr TileConfig kCandidates[] = {TUNE_CANDIDATES};

#define TUNE_CHECK(call)                                         \
  do {                                                           \
    const cudaError_t error = (call);                            \
    if (error != cudaSuccess) {                                  \
      std::printf("%s: %s\n", #call, cudaGetErrorString(error)); \
      std::exit(1);                                              \
    }                                                            \
  } while (false)

// Sums of four uniform numbers, of variance 1.
__global__ void FillNormal(__nv_bfloat16* data, std::int64_t count, std::uint32_t seed) {
  const std::int64_t index = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= count) return;
  const PhiloxCounter bits = Philox4x32({static_cast<std::uint32_t>(index), 0, 0, 0}, {seed, 1});
  const float sum = (static_cast<float>(bits.x) + static_cast<float>(bits.y) +
                     static_cast<float>(bits.z) + static_cast<float>(bits.w)) /
                    4294967296.0f;
  data[index] = __float2bfloat16((sum - 2.0f) * 1.7320508f);
}

template <int kIndex>
KernelVariant Candidate() {
  using Tiles = Tiling<kKind, Mma, kDim, false, kCandidates[kIndex]>;
  const void* function = nullptr;
  if constexpr (kKind == KernelKind::kForward) {
    function = reinterpret_cast<const void*>(&ForwardKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kJvp) {
    function = reinterpret_cast<const void*>(&JvpKernel<Tiles, TangentSet::kAll>);
  } else if constexpr (kKind == KernelKind::kVjpQueries) {
    function = reinterpret_cast<const void*>(&VjpQueriesKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys && Tiles::kPaired) {
    function = reinterpret_cast<const void*>(&VjpKeysPairedKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys) {
    function = reinterpret_cast<const void*>(&VjpKeysKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kHvpQueries) {
    function = reinterpret_cast<const void*>(&HvpQueriesKernel<Tiles, TangentSet::kAll>);
  } else {
    function = reinterpret_cast<const void*>(&HvpKeysKernel<Tiles, TangentSet::kAll>);
  }
  return {{kKind, Arithmetic::kBFloat16, kDim, false, TangentSet::kAll},
          "candidate",
          function,
          Tiles::kRows,
          Tiles::kKeyRows,
          Tiles::kSlices,
          Tiles::kThreads,
          Tiles::kSharedBytes};
}

template <int... kIndices>
std::vector<KernelVariant> Candidates(std::integer_sequence<int, kIndices...>) {
  return {Candidate<kIndices>()...};
}

struct Problem {
  int batch, heads, seq;
  bool causal;
};

template <typename Void>
Rows<Void> Contiguous(Void* data, int heads, int seq) {
  return {data, std::int64_t{heads} * seq * kDim, std::int64_t{seq} * kDim, kDim};
}

float MedianMilliseconds(const KernelVariant& variant, const AttentionParams& params) {
  cudaEvent_t begin, end;
  TUNE_CHECK(cudaEventCreate(&begin));
  TUNE_CHECK(cudaEventCreate(&end));
  std::vector<float> times;
  for (int run = 0; run < 9; ++run) {
    TUNE_CHECK(cudaEventRecord(begin));
    TUNE_CHECK(LaunchKernel(variant, params, nullptr));
    TUNE_CHECK(cudaEventRecord(end));
    TUNE_CHECK(cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    TUNE_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    if (run >= 2) times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void Tune(const Problem& problem) {
  const std::int64_t count = std::int64_t{problem.batch} * problem.heads * problem.seq * kDim;
  std::vector<__nv_bfloat16*> tensors(20);
  for (std::size_t index = 0; index < tensors.size(); ++index) {
    TUNE_CHECK(cudaMalloc(&tensors[index], count * 2));
    FillNormal<<<static_cast<unsigned>((count + 255) / 256), 256>>>(
        tensors[index], count, static_cast<std::uint32_t>(index));
  }
  const std::int64_t rows =
      std::int64_t{problem.batch} * problem.heads * StatisticsRows(problem.seq);
  AttentionParams params = {};
  params.batch = problem.batch;
  params.heads_q = params.heads_kv = problem.heads;
  params.group = 1;
  params.seq_q = params.seq_kv = problem.seq;
  params.head_dim = params.head_dim_v = kDim;
  params.scale = kDim == 64 ? 0.125 : 0.08838834764831845;
  if (problem.causal) params.score_mod.window_right = 0;
  int next = 0;
  const auto input = [&] {
    return Contiguous<const void>(tensors[next++], problem.heads, problem.seq);
  };
  const auto output = [&] { return Contiguous<void>(tensors[next++], problem.heads, problem.seq); };
  params.q = input(), params.k = input(), params.v = input();
  params.q_dot = input(), params.k_dot = input(), params.v_dot = input();
  params.o_bar = input(), params.o_bar_dot = input();
  params.o_out = output(), params.o_dot_out = output();
  params.q_bar = output(), params.k_bar = output(), params.v_bar = output();
  params.q_bar_dot = output(), params.k_bar_dot = output(), params.v_bar_dot = output();
  TUNE_CHECK(cudaMalloc(&params.lse, rows * 4));
  TUNE_CHECK(cudaMalloc(&params.lse_dot, rows * 4));
  TUNE_CHECK(cudaMalloc(&params.statistics, rows * 16));
  const KernelVariant* jvp =
      FindKernel({KernelKind::kJvp, Arithmetic::kBFloat16, kDim, false, TangentSet::kAll});
  TUNE_CHECK(LaunchKernel(*jvp, params, nullptr));
  params.o = {params.o_out.data, params.o_out.batch_stride, params.o_out.head_stride, kDim};
  params.o_dot = {params.o_dot_out.data, params.o.batch_stride, params.o.head_stride, kDim};
  TUNE_CHECK(LaunchStatistics(Arithmetic::kBFloat16, params, nullptr));
  TUNE_CHECK(cudaDeviceSynchronize());

  const auto variants =
      Candidates(std::make_integer_sequence<int, sizeof(kCandidates) / sizeof(kCandidates[0])>());
  for (std::size_t index = 0; index < variants.size(); ++index) {
    const TileConfig& config = kCandidates[index];
    std::printf("%s d%d %d,%d,%d %s {%d, %d, %d, %d, %d, %d} %.3f ms\n", KernelKindName(kKind),
                kDim, problem.batch, problem.heads, problem.seq, problem.causal ? "causal" : "full",
                config.warps, config.row_tiles, config.columns, config.stages, config.slice,
                config.blocks_per_multiprocessor, MedianMilliseconds(variants[index], params));
  }
  for (__nv_bfloat16* tensor : tensors) TUNE_CHECK(cudaFree(tensor));
  TUNE_CHECK(cudaFree(params.lse));
  TUNE_CHECK(cudaFree(params.lse_dot));
  TUNE_CHECK(cudaFree(params.statistics));
}

}  // namespace
}  // namespace theria::cuda

int main() {
  for (const bool causal : {false, true}) {
    theria::cuda::Tune({4, 16, 4096, causal});
    theria::cuda::Tune({64, 12, 197, causal});
  }
  return 0;
}
