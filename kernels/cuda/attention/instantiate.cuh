#ifndef THERIA_KERNELS_CUDA_ATTENTION_INSTANTIATE_CUH_
#define THERIA_KERNELS_CUDA_ATTENTION_INSTANTIATE_CUH_

#include "kernels/cuda/attention/forward.cuh"
#include "kernels/cuda/attention/hvp.cuh"
#include "kernels/cuda/attention/jvp.cuh"
#include "kernels/cuda/attention/mma_of.cuh"
#include "kernels/cuda/attention/vjp.cuh"
#include "kernels/cuda/attention/vjp_paired.cuh"
#include "kernels/cuda/compiled_kernel.h"

// What a generated instantiation file of generation sm80 consists of: the variants of one kind,
// arithmetic and dim.

namespace theria::cuda {

template <Arithmetic kArithmetic, KernelKind kKind, int kDim, ScoreKind kScores,
          TangentSet kTangents, int kCandidate = 0>
void AddCandidates(KernelTable* table) {
  using Mma = typename MmaOf<kArithmetic>::Type;
  constexpr int kBytes = sizeof(typename Mma::Element);
  using Tiles = Tiling<kKind, Mma, kDim, kScores,
                       CandidateTileConfig(kKind, kBytes, kDim, kScores, kCandidate)>;
  const void* function = nullptr;
  if constexpr (kKind == KernelKind::kForward) {
    function = reinterpret_cast<const void*>(&ForwardKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kJvp) {
    function = reinterpret_cast<const void*>(&JvpKernel<Tiles, kTangents>);
  } else if constexpr (kKind == KernelKind::kVjpQueries) {
    function = reinterpret_cast<const void*>(&VjpQueriesKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys && Tiles::kPaired) {
    function = reinterpret_cast<const void*>(&VjpKeysPairedKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kVjpKeys) {
    function = reinterpret_cast<const void*>(&VjpKeysKernel<Tiles>);
  } else if constexpr (kKind == KernelKind::kHvpQueries) {
    function = reinterpret_cast<const void*>(&HvpQueriesKernel<Tiles, kTangents>);
  } else {
    function = reinterpret_cast<const void*>(&HvpKeysKernel<Tiles, kTangents>);
  }
  table->Add({{kKind, kArithmetic, kDim, kScores != ScoreKind::kPlain, kTangents,
               kScores == ScoreKind::kExtended},
              Generation::kSm80,
              function,
              Tiles::kRows,
              Tiles::kColumns,
              Tiles::kStages,
              Tiles::kKeyRows,
              Tiles::kSlices,
              Tiles::kThreads,
              Tiles::kSharedBytes});
  if constexpr (kCandidate + 1 < TileCandidates(kKind, kBytes, kDim, kScores)) {
    AddCandidates<kArithmetic, kKind, kDim, kScores, kTangents, kCandidate + 1>(table);
  }
}

template <Arithmetic kArithmetic, KernelKind kKind, int kDim>
void AddVariants(KernelTable* table) {
  AddCandidates<kArithmetic, kKind, kDim, ScoreKind::kPlain, TangentSet::kAll>(table);
  if constexpr (kKind == KernelKind::kHvpQueries || kKind == KernelKind::kHvpKeys) {
    AddCandidates<kArithmetic, kKind, kDim, ScoreKind::kPlain, TangentSet::kInputs>(table);
  }
  AddCandidates<kArithmetic, kKind, kDim, ScoreKind::kGeneral,
                HasTangents(kKind) ? TangentSet::kSome : TangentSet::kAll>(table);
}

template <Arithmetic kArithmetic, KernelKind kKind, int kDim>
void AddExtendedVariants(KernelTable* table) {
  AddCandidates<kArithmetic, kKind, kDim, ScoreKind::kExtended,
                HasTangents(kKind) ? TangentSet::kSome : TangentSet::kAll>(table);
}

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_INSTANTIATE_CUH_
