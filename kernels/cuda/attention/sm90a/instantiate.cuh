#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_INSTANTIATE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_INSTANTIATE_CUH_

#include "kernels/cuda/attention/mma_of.cuh"
#include "kernels/cuda/attention/sm90a/forward.cuh"
#include "kernels/cuda/attention/sm90a/hvp.cuh"
#include "kernels/cuda/attention/sm90a/jvp.cuh"
#include "kernels/cuda/attention/sm90a/q_bar_sum.cuh"
#include "kernels/cuda/attention/sm90a/vjp.cuh"
#include "kernels/cuda/attention/sm90a/vjp_one_pass.cuh"
#include "kernels/cuda/compiled_kernel.h"

// What a generated instantiation file of generation sm90a consists of: the variants of one kind,
// arithmetic and dim. Masks, dropout and absent tangents are left to generation sm80.

namespace theria::cuda::sm90a {

template <Arithmetic kArithmetic, KernelKind kKind, int kDim, TangentSet kTangents,
          int kCandidate = 0>
void AddCandidates(KernelTable* table) {
  constexpr TileConfigs kConfigs = TileConfigsOf(kKind, kDim);
  constexpr TileConfig kConfig = kConfigs.configs[kCandidate];
  using Tiles = Tiling<kKind, typename MmaOf<kArithmetic>::Type, kDim, kConfig>;
  const void* function = nullptr;
  const void* write_q_bar = nullptr;
  int q_bar_part = 0;
  // At larger head dimensions the key kernel of the HVP gains nothing from it.
  constexpr bool kPersistent = kKind == KernelKind::kForward || kKind == KernelKind::kJvp ||
                               kKind == KernelKind::kHvpQueries ||
                               (kKind == KernelKind::kHvpKeys && kDim <= 64);
  if constexpr (kKind == KernelKind::kForward) {
    function = reinterpret_cast<const void*>(&ForwardKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kJvp) {
    function = reinterpret_cast<const void*>(&JvpKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpQueries) {
    function = reinterpret_cast<const void*>(&VjpQueriesKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys) {
    function = reinterpret_cast<const void*>(&VjpKeysKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjp) {
    function = reinterpret_cast<const void*>(&VjpKernel<Tiles>);
    write_q_bar = reinterpret_cast<const void*>(&WriteQBarKernel<Tiles>);
    q_bar_part = QBarPart<Tiles>::kElements;
  } else if constexpr (kKind == KernelKind::kHvpQueries) {
    function = reinterpret_cast<const void*>(&HvpQueriesKernel<Tiles, kTangents>);
  } else {
    function = reinterpret_cast<const void*>(&HvpKeysKernel<Tiles, kTangents>);
  }
  table->Add({{kKind, kArithmetic, kDim, false, kTangents},
              Generation::kSm90a,
              function,
              Tiles::kRows,
              Tiles::kColumns,
              kConfig.score_stages,
              Tiles::kKeyRows,
              1,
              Tiles::kThreads,
              Tiles::kSharedBytes,
              write_q_bar,
              q_bar_part,
              write_q_bar == nullptr ? 0 : Tiles::kQBarSumColumns,
              kPersistent});
  if constexpr (kCandidate + 1 < kConfigs.count) {
    AddCandidates<kArithmetic, kKind, kDim, kTangents, kCandidate + 1>(table);
  }
}

template <Arithmetic kArithmetic, KernelKind kKind, int kDim>
void AddVariants(KernelTable* table) {
  AddCandidates<kArithmetic, kKind, kDim, TangentSet::kAll>(table);
  if constexpr (kKind == KernelKind::kHvpQueries || kKind == KernelKind::kHvpKeys) {
    AddCandidates<kArithmetic, kKind, kDim, TangentSet::kInputs>(table);
  }
}

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_INSTANTIATE_CUH_
