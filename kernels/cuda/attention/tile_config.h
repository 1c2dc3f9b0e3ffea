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
// `slice` of them and the grid covers the rest. Where the rows of all tensors would not fit in
// shared memory, a kernel other than the forward one has `chunk` columns of them there at a time.

namespace theria::cuda {

enum class KernelKind : std::uint8_t {
  kForward,     // o, lse
  kJvp,         // o, lse, o_dot, lse_dot
  kVjpQueries,  // q_bar
  kVjpKeys,     // k_bar, v_bar
  kVjp,         // q_bar, k_bar, v_bar in one pass; q_bar is added up in any order
  kHvpQueries,  // q_bar_dot, and q_bar on request
  kHvpKeys,     // k_bar_dot, v_bar_dot, and k_bar, v_bar on request where HvpKeysHasPrimal
};

// What a kernel can do between the products, see score_tile.cuh and extended_scores.cuh.
enum class ScoreKind : std::uint8_t {
  kPlain,     // causal and window limits
  kGeneral,   // masks, dropout, any scale
  kExtended,  // the rest as well: soft cap, ALiBi, a bias's tangent, key ranges that vary by row
};

constexpr bool HasTangents(KernelKind kind) {
  return kind == KernelKind::kJvp || kind == KernelKind::kHvpQueries ||
         kind == KernelKind::kHvpKeys;
}

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
  int chunk = 0;        // 0: all columns

  constexpr int rows() const { return warps * row_tiles * 16 / (paired ? 2 : 1); }
  constexpr int threads() const { return warps * 32; }
};

// Whether k_bar and v_bar fit in registers beside their tangents.
constexpr bool HvpKeysHasPrimal(int element_bytes, int dim) {
  return element_bytes <= 4 && dim <= 64;
}

// Extended kernels hold up to six values for each score of a thread, hence narrow moving tiles.
constexpr TileConfig ExtendedHalfTileConfig(KernelKind kind, int dim) {
  switch (kind) {
    case KernelKind::kForward:
      if (dim <= 128) return {4, 1, 64, 2, dim, 2};
      return {4, 1, 32, 2, dim, 2};
    case KernelKind::kJvp:
      if (dim <= 64) return {4, 1, 32, 2, dim, 2};
      if (dim <= 128) return {4, 1, 32, 2, dim, 1};
      return {4, 1, 32, 2, dim / 2, 1};
    case KernelKind::kVjpQueries:
      if (dim <= 128) return {4, 1, 32, 2, dim, 2};
      return {8, 1, 32, 2, dim, 1};
    case KernelKind::kVjpKeys:
      if (dim <= 64) return {4, 1, 32, 2, dim, 2};
      if (dim <= 128) return {4, 1, 32, 2, dim, 1};
      return {8, 1, 32, 2, dim / 2, 1};
    case KernelKind::kVjp:
      break;
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {4, 1, 16, 2, dim, 2};
      if (dim <= 128) return {4, 1, 16, 1, dim, 1};
      return {4, 1, 16, 2, dim / 2, 1};
  }
  return {};
}

// General kernels have much code for each score of a thread; beyond 32 scores the forward one
// slowed down (docs/benchmarks.md).
constexpr TileConfig HalfTileConfig(KernelKind kind, int dim, ScoreKind scores) {
  if (scores == ScoreKind::kExtended) return ExtendedHalfTileConfig(kind, dim);
  const bool general = scores == ScoreKind::kGeneral;
  switch (kind) {
    case KernelKind::kForward:
      if (general && dim <= 128) return {4, 1, 64, 2, dim, dim <= 64 ? 4 : 2};
      if (dim <= 64) return {4, 2, 128, 2, dim, 2};
      if (dim <= 128) return {4, 2, 64, 2, dim, 2};
      return {4, 1, 32, 2, dim, 2};
    case KernelKind::kJvp:
      if (dim <= 64) return {4, 2, 32, 2, dim, 2};
      if (dim <= 128) return {8, 1, 64, 2, dim, 1};
      return {4, 1, 32, 2, dim / 2, 1};
    case KernelKind::kVjpQueries:
      if (general && dim <= 64) return {4, 1, 64, 2, dim, 3};
      if (dim <= 64) return {4, 2, 64, 2, dim, 2};
      if (dim <= 128) return {4, 2, 32, 2, dim, 2};
      return {8, 1, 32, 2, dim, 1};
    case KernelKind::kVjpKeys:
      if (dim <= 64) return {4, 2, 16, 2, dim, 2, 4, true};
      if (dim <= 96) return {4, 2, 32, 2, dim, 2};
      if (dim <= 128) return {4, 2, 64, 1, dim, 2, 1, false, true};
      return {8, 1, 32, 2, dim / 2, 1};
    case KernelKind::kVjp:
      break;  // only generation sm90a has it
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

constexpr TileConfig SingleTileConfig(KernelKind kind, int dim, ScoreKind scores) {
  const int columns = scores == ScoreKind::kExtended ? 16 : 32;
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
    case KernelKind::kVjp:
      break;
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {8, 1, columns, 2, dim, 1};
      if (dim <= 128) return {4, 1, 16, 2, dim, 1};
      return {2, 1, 16, 1, dim / 2, 1};
  }
  return {};
}

// Fits every device, whatever the head dimension.
constexpr TileConfig ChunkedTileConfig(int slice) {
  return {4, 1, 16, 1, slice, 1, 1, false, false, 32};
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
      return ChunkedTileConfig(dim / 4);
    case KernelKind::kVjpQueries:
      if (dim <= 128) return {4, 1, 16, 2, dim, 1};
      return ChunkedTileConfig(dim / 4);
    case KernelKind::kVjpKeys:
      if (dim <= 64) return {4, 1, 16, 2, dim, 1};
      if (dim <= 128) return {4, 1, 16, 2, dim / 2, 1};
      return ChunkedTileConfig(dim / 4);
    case KernelKind::kVjp:
      break;
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      if (dim <= 64) return {4, 1, 16, 2, dim, 1};
      if (dim <= 128) return {2, 1, 16, 1, dim / 2, 1};
      return ChunkedTileConfig(dim / 4);
  }
  return {};
}

// The default configuration.
constexpr TileConfig TileConfigOf(KernelKind kind, int element_bytes, int dim, ScoreKind scores) {
  return element_bytes == 2   ? HalfTileConfig(kind, dim, scores)
         : element_bytes == 4 ? SingleTileConfig(kind, dim, scores)
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
    case KernelKind::kVjp:
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
    case KernelKind::kVjp:
      return 2;
    case KernelKind::kJvp:
    case KernelKind::kHvpQueries:
    case KernelKind::kHvpKeys:
      return 4;
  }
  return 0;
}

// Bytes that pad a row in shared memory, so that loads meet no bank twice.
constexpr int RowPaddingBytes(int element_bytes) { return element_bytes == 8 ? 32 : 16; }

// Shared memory of a block: the stationary tiles, the stages of moving tiles with their row
// statistics, and what paired warps exchange (two matrices of fragments for each, see
// vjp_paired.cuh).
struct SharedLayout {
  int row_tile, column_tile, statistics, stage, exchange, total;
};

constexpr SharedLayout SharedLayoutOf(KernelKind kind, int element_bytes, int dim,
                                      const TileConfig& config) {
  const int row_bytes =
      (config.chunk > 0 ? config.chunk : dim) * element_bytes + RowPaddingBytes(element_bytes);
  const int stage_columns = config.columns * config.parts;
  const bool key_rows = kind == KernelKind::kVjpKeys || kind == KernelKind::kHvpKeys;
  const int accumulator_bytes = element_bytes == 8 ? 8 : 4;
  SharedLayout layout = {};
  layout.row_tile = config.rows() * row_bytes;
  layout.column_tile = stage_columns * row_bytes;
  layout.statistics = key_rows ? stage_columns * 4 * accumulator_bytes : 0;
  layout.stage = MovingTensors(kind) * layout.column_tile + layout.statistics;
  layout.exchange =
      config.paired ? config.warps * config.row_tiles * 16 * config.columns * element_bytes : 0;
  layout.total =
      StationaryTensors(kind) * layout.row_tile + config.stages * layout.stage + layout.exchange;
  return layout;
}

// Shared memory that a block may have: at compute capability 8.6 and 8.9, 8.0, 9.0.
inline constexpr int kSharedLimits[] = {99 * 1024, 163 * 1024, 227 * 1024};

// The default made to fit the smallest of these limits that any tile can: fewer buffers, then
// narrower moving tiles, then fewer warps, then chunks.
constexpr TileConfig CompactTileConfig(KernelKind kind, int element_bytes, int dim,
                                       ScoreKind scores) {
  TileConfig config = TileConfigOf(kind, element_bytes, dim, scores);
  for (const int limit : kSharedLimits) {
    config = TileConfigOf(kind, element_bytes, dim, scores);
    while (SharedLayoutOf(kind, element_bytes, dim, config).total > limit) {
      if (config.stages > 1) {
        config.stages = 1;
      } else if (config.columns >= 32) {
        config.columns /= 2;
      } else if (config.warps > 1) {
        config.warps /= 2;
      } else if (config.chunk == 0 && kind != KernelKind::kForward) {
        config = ChunkedTileConfig(config.slice);
      } else {
        break;
      }
    }
    if (SharedLayoutOf(kind, element_bytes, dim, config).total <= limit) break;
  }
  return config;
}

// For short sequences: the 197 tokens of a vision transformer leave less of tiles of 112 empty than
// of 128, and what fits one tile of 64 needs no second buffer.
constexpr bool HasShortTileConfigs(KernelKind kind, int element_bytes, int dim, ScoreKind scores) {
  return kind == KernelKind::kForward && element_bytes == 2 && dim <= 64 &&
         scores == ScoreKind::kPlain;
}
inline constexpr int kShortTileConfigs = 3;
constexpr TileConfig ShortTileConfig(int dim, int index) {
  if (index == 0) return {4, 1, 112, 2, dim, 3};
  return {4, 1, 64, index, dim, 4};
}

// How many configurations of a kernel are compiled, see registry.h: the default, and where that
// does not fit every device, the compact one; or those for short sequences.
constexpr int TileCandidates(KernelKind kind, int element_bytes, int dim, ScoreKind scores) {
  if (HasShortTileConfigs(kind, element_bytes, dim, scores)) return 1 + kShortTileConfigs;
  const auto bytes = [&](const TileConfig& config) {
    return SharedLayoutOf(kind, element_bytes, dim, config).total;
  };
  const int standard = bytes(TileConfigOf(kind, element_bytes, dim, scores));
  const int compact = bytes(CompactTileConfig(kind, element_bytes, dim, scores));
  for (const int limit : kSharedLimits) {
    if (compact <= limit) return standard <= limit ? 1 : 2;
  }
  return 1;
}

constexpr TileConfig CandidateTileConfig(KernelKind kind, int element_bytes, int dim,
                                         ScoreKind scores, int candidate) {
  if (candidate == 0) return TileConfigOf(kind, element_bytes, dim, scores);
  return HasShortTileConfigs(kind, element_bytes, dim, scores)
             ? ShortTileConfig(dim, candidate - 1)
             : CompactTileConfig(kind, element_bytes, dim, scores);
}

// Everything about one instantiation that is known before it runs.
template <KernelKind kKindT, typename MmaT, int kDimT, ScoreKind kScoresT, TileConfig kConfigT>
struct Tiling {
  using Mma = MmaT;
  using Element = typename Mma::Element;
  using Accumulator = typename Mma::Accumulator;

  static constexpr KernelKind kKind = kKindT;
  static constexpr bool kGeneral = kScoresT != ScoreKind::kPlain;
  static constexpr bool kExtended = kScoresT == ScoreKind::kExtended;
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

  // Columns of the tiles in shared memory, and elements from row to row there; the same of the
  // moving tiles that the output is made of, which a chunked kernel has apart.
  static constexpr bool kChunked = kConfig.chunk > 0;
  static constexpr int kTileDim = kChunked ? kConfig.chunk : kDim;
  static constexpr int kStride = kTileDim + Mma::kPadding;
  static constexpr int kOutputStride = kChunked ? kSlice + Mma::kPadding : kStride;
  static constexpr int kOutputTileBytes = kColumns * kOutputStride * sizeof(Element);
  static constexpr bool kKeyRows = kKind == KernelKind::kVjpKeys || kKind == KernelKind::kHvpKeys;
  static constexpr SharedLayout kShared = SharedLayoutOf(kKind, sizeof(Element), kDim, kConfig);
  static constexpr int kRowTileBytes = kShared.row_tile;
  static constexpr int kColumnTileBytes = kShared.column_tile;
  static constexpr int kStatisticsBytes = kShared.statistics;
  static constexpr int kStageBytes = kShared.stage;
  static constexpr int kExchangeBytes = kShared.exchange;
  static constexpr int kSharedBytes = kShared.total;

  static_assert(Mma::kPadding * sizeof(Element) == RowPaddingBytes(sizeof(Element)));
  static_assert(!kPaired || (kKind == KernelKind::kVjpKeys && kSlices == 1 && kParts == 1));
  static_assert((kParts == 1 && !kResident) || kKind == KernelKind::kVjpKeys ||
                kKind == KernelKind::kVjpQueries);
  static_assert(!kChunked ||
                (kKind != KernelKind::kForward && kStages == 1 && kParts == 1 && !kResident &&
                 !kPaired && kDim % kTileDim == 0 && kOutputTileBytes <= kRowTileBytes));
  static_assert(kDim % 32 == 0 && kDim % kSlice == 0 && kSlice % 16 == 0);
  static_assert(kColumns % 16 == 0 && kStages >= 1 && kStages <= 2);
  static_assert(kKind == KernelKind::kForward || kKind == KernelKind::kJvp ||
                    kStatisticsRowMultiple % (kKeyRows ? kStageColumns : kRows) == 0,
                "tiles would read past the padded row statistics");
  static_assert(kSharedBytes <= 227 * 1024, "the tiles exceed an H200's shared memory");
};

}  // namespace theria::cuda

#endif  // THERIA_KERNELS_CUDA_ATTENTION_TILE_CONFIG_H_
