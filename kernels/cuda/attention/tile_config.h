#ifndef THERIA_KERNELS_CUDA_ATTENTION_TILE_CONFIG_H_
#define THERIA_KERNELS_CUDA_ATTENTION_TILE_CONFIG_H_

#include <cstdint>

#include "kernels/cuda/attention/params.h"

// The tile sizes of every kernel, by element size and padded head dimension, chosen by measurement
// on an H200 (docs/benchmarks).
//
// A block of `warps` warps keeps `warps * row_tiles * 16` rows of its stationary tensors in shared
// memory, and where `resident` their fragments in registers as well (VJP kernels only). It streams
// tiles of `columns` rows of the moving ones past them, `parts` tiles at a time, `stages` buffers
// deep. Where the accumulators of all output columns would not fit in registers, a block computes
// `slice` of them and the grid covers the rest.

namespace theria::cuda {

enum class KernelKind : std::uint8_t {
  kForward,     // o, lse
  kJvp,         // o, lse, o_dot, lse_dot
  kVjpQueries,  // q_bar
  kVjpKeys,     // k_bar, v_bar
  kHvpQueries,  // q_bar_dot, and q_bar on request
  kHvpKeys,     // k_bar_dot, v_bar_dot, and k_bar, v_bar on request where HvpKeysHasPrimal
};

struct TileConfig {
  int warps;
  int row_tiles;
  int columns;
  int stages;
  int slice;
  int blocks_per_multiprocessor;  // that the register count must allow
  int parts = 1;
  bool resident = false;
  bool paired = false;  // two warps share their rows and split the columns, see vjp_paired.cuh

  constexpr int rows() const { return warps * row_tiles * 16 / (paired ? 2 : 1); }
  constexpr int threads() const { return warps * 32; }
};

// Whether k_bar and v_bar fit in registers beside their tangents.
constexpr bool HvpKeysHasPrimal(int element_bytes, int dim) {
  return element_bytes <= 4 && dim <= 64;
}

constexpr TileConfig HalfTileConfig(KernelKind kind, int dim) {
  switch (kind) {
    case KernelKind::kForward:
      if (dim <= 64) return {4, 2, 128, 2, dim, 2};
      if (dim <= 128) return {4, 2, 64, 2, dim, 2};
      return {4, 1, 32, 2, dim, 2};
    case KernelKind::kJvp:
      if (dim <= 64) return {4, 2, 32, 2, dim, 2};
      if (dim <= 128) return {8, 1, 64, 2, dim, 1};
      return {4, 1, 32, 2, dim / 2, 1};
    case KernelKind::kVjpQueries:
      if (dim <= 64) return {4, 2, 64, 2, dim, 2};
      if (dim <= 128) return {4, 2, 32, 2, dim, 2};
      return {8, 1, 32, 2, dim, 1};
    case KernelKind::kVjpKeys:
      if (dim <= 64) return {4, 2, 16, 2, dim, 2, 4, true};
      if (dim <= 96) return {4, 2, 32, 2, dim, 2};
      if (dim <= 128) return {4, 2, 64, 1, dim, 2, 1, false, true};
      return {8, 1, 32, 2, dim / 2, 1};
    case KernelKind::kHvpQueries:
      if (dim <= 64) return {4, 2, 16, 2, dim, 2};
      if (dim <= 128) return {4, 1, 32, 1, dim, 2};
      return {4, 1, 16, 2, dim / 2, 1};
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {4, 1, 32, 2, dim, 2};
      if (dim <= 128) return {4, 1, 32, 1, dim, 2};
      return {4, 1, 16, 2, dim / 2, 1};
  }
  return {};
}

constexpr TileConfig SingleTileConfig(KernelKind kind, int dim) {
  switch (kind) {
    case KernelKind::kForward:
      if (dim <= 128) return {8, 1, 32, 2, dim, 1};
      return {4, 1, 32, 2, dim, 1};
    case KernelKind::kJvp:
      if (dim <= 64) return {8, 1, 32, 2, dim, 1};
      if (dim <= 128) return {4, 1, 32, 2, dim, 1};
      return {2, 1, 16, 2, dim / 2, 1};
    case KernelKind::kVjpQueries:
      if (dim <= 128) return {8, 1, 32, 2, dim, 1};
      return {4, 1, 16, 2, dim, 1};
    case KernelKind::kVjpKeys:
      if (dim <= 128) return {8, 1, 32, 2, dim, 1};
      return {4, 1, 16, 2, dim / 2, 1};
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {8, 1, 32, 2, dim, 1};
      if (dim <= 128) return {4, 1, 16, 2, dim, 1};
      return {2, 1, 16, 1, dim / 2, 1};
  }
  return {};
}

constexpr TileConfig DoubleTileConfig(KernelKind kind, int dim) {
  switch (kind) {
    case KernelKind::kForward:
      if (dim <= 64) return {4, 1, 32, 2, dim, 1};
      if (dim <= 128) return {4, 1, 16, 2, dim, 1};
      return {2, 1, 16, 2, dim / 2, 1};
    case KernelKind::kJvp:
      if (dim <= 64) return {4, 1, 16, 2, dim, 1};
      if (dim <= 128) return {2, 1, 16, 2, dim / 2, 1};
      return {1, 1, 16, 1, dim / 4, 1};
    case KernelKind::kVjpQueries:
      if (dim <= 64) return {4, 1, 16, 2, dim, 1};
      if (dim <= 128) return {4, 1, 16, 2, dim, 1};
      return {2, 1, 16, 1, dim / 2, 1};
    case KernelKind::kVjpKeys:
      if (dim <= 64) return {4, 1, 16, 2, dim, 1};
      if (dim <= 128) return {4, 1, 16, 2, dim / 2, 1};
      return {2, 1, 16, 1, dim / 4, 1};
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {4, 1, 16, 2, dim, 1};
      if (dim <= 128) return {2, 1, 16, 1, dim / 2, 1};
      return {1, 1, 16, 1, dim / 3, 1};
  }
  return {};
}

constexpr TileConfig TileConfigOf(KernelKind kind, int element_bytes, int dim) {
  return element_bytes == 2   ? HalfTileConfig(kind, dim)
         : element_bytes == 4 ? SingleTileConfig(kind, dim)
                              : DoubleTileConfig(kind, dim);
}

// Tensors that a kernel keeps in shared memory, and that it streams.
constexpr int StationaryTensors(KernelKind kind) {
  switch (kind) {
    case KernelKind::kForward:
      return 1;
    case KernelKind::kJvp:
    case KernelKind::kVjpQueries:
    case KernelKind::kVjpKeys:
      return 2;
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      return 4;
  }
  return 0;
}

constexpr int MovingTensors(KernelKind kind) {
  switch (kind) {
    case KernelKind::kForward:
    case KernelKind::kVjpQueries:
    case KernelKind::kVjpKeys:
      return 2;
    case KernelKind::kJvp:
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      return 4;
  }
  return 0;
}

// Everything about one instantiation that is known before it runs.
template <KernelKind kKindT, typename MmaT, int kDimT, bool kGeneralT,
          TileConfig kConfigT = TileConfigOf(kKindT, sizeof(typename MmaT::Element), kDimT)>
struct Tiling {
  using Mma = MmaT;
  using Element = typename Mma::Element;
  using Accumulator = typename Mma::Accumulator;

  static constexpr KernelKind kKind = kKindT;
  static constexpr bool kGeneral = kGeneralT;
  static constexpr int kDim = kDimT;
  static constexpr TileConfig kConfig = kConfigT;

  static constexpr int kRowTiles = kConfig.row_tiles;
  static constexpr int kWarpRows = kRowTiles * 16;
  static constexpr int kRows = kConfig.rows();
  static constexpr int kThreads = kConfig.threads();
  static constexpr int kColumns = kConfig.columns;
  static constexpr int kColumnBlocks = kColumns / 8;
  static constexpr int kParts = kConfig.parts;
  static constexpr int kStageColumns = kColumns * kParts;
  static constexpr bool kResident = kConfig.resident;
  static constexpr bool kPaired = kConfig.paired;
  static constexpr int kStages = kConfig.stages;
  static constexpr int kSlice = kConfig.slice;
  static constexpr int kSlices = kDim / kSlice;
  static constexpr int kSliceBlocks = kSlice / 8;
  static constexpr int kMinBlocks = kConfig.blocks_per_multiprocessor;

  static constexpr int kStride = kDim + Mma::kPadding;
  static constexpr int kRowTileBytes = kRows * kStride * static_cast<int>(sizeof(Element));
  static constexpr int kColumnTileBytes =
      kStageColumns * kStride * static_cast<int>(sizeof(Element));
  static constexpr bool kKeyRows = kKind == KernelKind::kVjpKeys || kKind == KernelKind::kHvpKeys;
  static constexpr int kStatisticsBytes =
      kKeyRows ? kStageColumns * 4 * static_cast<int>(sizeof(Accumulator)) : 0;
  static constexpr int kStageBytes = MovingTensors(kKind) * kColumnTileBytes + kStatisticsBytes;
  // Two matrices of fragments for each warp, see vjp_paired.cuh.
  static constexpr int kExchangeBytes =
      kPaired ? kConfig.warps * 2 * kWarpRows * (kColumns / 2) * static_cast<int>(sizeof(Element))
              : 0;
  static constexpr int kSharedBytes =
      StationaryTensors(kKind) * kRowTileBytes + kStages * kStageBytes + kExchangeBytes;

  static_assert(!kPaired || (kKind == KernelKind::kVjpKeys && kSlices == 1 && kParts == 1));
  static_assert((kParts == 1 && !kResident) || kKind == KernelKind::kVjpKeys ||
                kKind == KernelKind::kVjpQueries);
  static_assert(kDim % 32 == 0 && kDim % kSlice == 0 && kSlice % 16 == 0);
  static_assert(kColumns % 16 == 0 && kStages >= 1 && kStages <= 2);
  static_assert(kStatisticsRowMultiple % (kKeyRows ? kStageColumns : kRows) == 0,
                "tiles would read past the padded row statistics");
  static_assert(kSharedBytes <= 227 * 1024, "the tiles exceed an H200's shared memory");
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_TILE_CONFIG_H_
