#ifndef THERIA_KERNELS_CUDA_ATTENTION_SM90A_TILING_H_
#define THERIA_KERNELS_CUDA_ATTENTION_SM90A_TILING_H_

#include "kernels/cuda/attention/tile_config.h"

// The tile sizes of the kernels for compute capability 9.0.
//
// A block has one warpgroup that starts copies and `consumers` warpgroups that compute, each of
// them 64 rows of the stationary side. Past these stream tiles of `columns` rows of the moving
// tensors, through two rings of buffers: those that the scores S come from (k or q, and their
// tangents), and those of P_bar or of the output (v or o_bar, and theirs).

namespace theria::cuda::sm90a {

struct TileConfig {
  int consumers = 0;
  int columns = 0;
  int score_stages = 0;
  int value_stages = 0;
  bool adds_registers = false;  // of kVjp: adds q_bar from registers, not through shared memory

  constexpr int rows() const { return consumers * 64; }
  constexpr int threads() const { return (consumers + 1) * 128; }
};

// The configurations that are compiled, the default first, see registry.h.
struct TileConfigs {
  int count = 0;
  TileConfig configs[3] = {};
};

constexpr TileConfigs TileConfigsOf(KernelKind kind, int dim) {
  switch (kind) {
    case KernelKind::kForward:
      if (dim <= 64) return {2, {{3, 128, 2, 2}, {2, 128, 2, 2}}};
      if (dim <= 128) return {1, {{2, 128, 2, 2}}};
      if (dim <= 192) return {1, {{2, 96, 2, 2}}};
      return {1, {{2, 64, 2, 2}}};
    case KernelKind::kJvp:
      if (dim <= 64) return {2, {{2, 96, 2, 2}, {2, 64, 2, 2}}};
      return {1, {{2, 64, 2, 2}}};
    case KernelKind::kVjpQueries:
      if (dim <= 64) return {1, {{3, 64, 3, 3}}};
      if (dim <= 96) return {1, {{2, 96, 3, 2}}};
      if (dim <= 128) return {1, {{2, 64, 4, 3}}};
      if (dim <= 192) return {1, {{2, 64, 3, 2}}};
      return {1, {{2, 32, 3, 2}}};
    case KernelKind::kVjpKeys:
      if (dim <= 64) return {1, {{2, 64, 4, 4}}};
      return {1, {{2, 64, 3, 3}}};
    case KernelKind::kVjp:
      if (dim <= 64) return {3, {{2, 128, 3, 2}, {2, 128, 4, 2, true}, {2, 64, 4, 3}}};
      return {2, {{2, 64, 3, 2}, {2, 64, 4, 2, true}}};
    case KernelKind::kHvpQueries:
      if (dim <= 64) return {1, {{2, 64, 2, 2}}};
      return {1, {{2, 32, 2, 2}}};
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {1, {{2, 32, 3, 3}}};
      return {1, {{2, 32, 2, 2}}};
  }
  return {};
}

// Everything about one instantiation that is known before it runs.
template <KernelKind kKindT, typename MmaT, int kDimT, TileConfig kConfigT>
struct Tiling {
  using Mma = MmaT;
  using Element = typename Mma::Element;
  using Accumulator = float;

  static constexpr KernelKind kKind = kKindT;
  static constexpr int kDim = kDimT;
  static constexpr TileConfig kConfig = kConfigT;
  static constexpr int kConsumers = kConfig.consumers;
  static constexpr int kRows = kConfig.rows();
  static constexpr int kThreads = kConfig.threads();
  static constexpr int kColumns = kConfig.columns;
  static constexpr bool kKeyRows =
      kKind == KernelKind::kVjpKeys || kKind == KernelKind::kVjp || kKind == KernelKind::kHvpKeys;

  static constexpr bool kAddsQBar = kKind == KernelKind::kVjp;

  // Tensors: stationary, and in each ring. In shared memory a row takes whole panels.
  static constexpr int kRowTensors = StationaryTensors(kKind);
  static constexpr int kRingTensors = MovingTensors(kKind) / 2;
  static constexpr int kRowPanelBytes = kRows * 128;
  static constexpr int kPanels = (kDim + 63) / 64;
  static constexpr int kRowTileBytes = kPanels * kRowPanelBytes;
  // The tensors of a ring lie side by side: kColumns rows of each in every panel, so that one
  // product can take the rows of both.
  static constexpr int kTensorBytes = kColumns * 128;
  static constexpr int kColumnPanelBytes = kRingTensors * kTensorBytes;
  static constexpr int kColumnTileBytes = kPanels * kTensorBytes;
  // kVjp has shifts and deltas alone, in an order of its own; a warp writes them there.
  static constexpr int kStatisticsBytes = !kKeyRows ? 0 : kColumns * (kAddsQBar ? 8 : 16);
  static constexpr int kScoreCopyBytes =
      kRingTensors * kColumnTileBytes + (kAddsQBar ? 0 : kStatisticsBytes);
  static constexpr int kScoreStageBytes =
      (kRingTensors * kColumnTileBytes + kStatisticsBytes + 1023) / 1024 * 1024;
  static constexpr int kStatisticsOffset = kRingTensors * kColumnTileBytes;
  static constexpr int kValueStageBytes = kRingTensors * kColumnTileBytes;

  // A kilobyte to align the tiles, one for the barriers, the stationary tiles, the rings.
  // Where there is room for two buffers of the stationary tiles, a persistent kernel multiplies the
  // first scores of the next one beside the last output of this one.
  static constexpr int kRowStages = kKind == KernelKind::kForward && kDim <= 128 ? 2 : 1;
  static constexpr int kRowStageBytes = kRowTensors * kRowTileBytes;
  static constexpr int kScoreRingOffset = 1024 + kRowStages * kRowStageBytes;
  static constexpr int kValueRingOffset =
      kScoreRingOffset + kConfig.score_stages * kScoreStageBytes;
  static constexpr int kValueRingEnd = kValueRingOffset + kConfig.value_stages * kValueStageBytes;

  // Of kVjp: two buffers of S_bar, [kRows, kColumns] in panels of 64 columns, and for each
  // warpgroup that computes one of its part of q_bar in float32, see q_bar_sum.cuh.
  static constexpr int kScoreBarOffset = kValueRingEnd;
  static constexpr int kScoreBarBytes = kAddsQBar ? kRows * kColumns * 2 : 0;
  static constexpr int kQBarOffset = kScoreBarOffset + 2 * kScoreBarBytes;
  static constexpr int kQBarSumColumns = kPanels * 64;
  static constexpr int kQBarPartColumns = kColumns * kQBarSumColumns / 64 / kConsumers;
  static constexpr int kQBarPartBytes = kAddsQBar ? 64 * kQBarPartColumns * 4 : 0;
  static constexpr int kSharedBytes =
      1024 + kQBarOffset + (kConfig.adds_registers ? 0 : kConsumers * kQBarPartBytes);

  // Of a thread of the copying warpgroup and of the others, of 65536 in all.
  static constexpr int kCopyRegisters = kConsumers == 2 ? 24 : 32;
  static constexpr int kComputeRegisters = kConsumers == 2 ? 240 : 160;

  static_assert(kConsumers == 2 || kConsumers == 3);
  static_assert(kDim % 32 == 0 && kColumns % 16 == 0);
  static_assert(!kKeyRows || kStatisticsRowMultiple % kColumns == 0,
                "tiles would read past the padded row statistics");
  static_assert(!kAddsQBar || (kConsumers == 2 && kColumns % 64 == 0));
  static_assert(kRows <= 256 && kColumns <= 256, "a box of the copy engine has at most 256 rows");
  static_assert(kSharedBytes <= 227 * 1024, "the tiles exceed an H100's shared memory");
};

}  // namespace theria::cuda::sm90a

#endif  // THERIA_KERNELS_CUDA_ATTENTION_SM90A_TILING_H_
