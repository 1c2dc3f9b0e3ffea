#ifndef THERIA_KERNELS_CPU_SCORE_TILE_H_
#define THERIA_KERNELS_CPU_SCORE_TILE_H_

#include <cstdint>

#include "kernels/api/score_mod.h"
#include "kernels/cpu/blocking.h"
#include "kernels/cpu/tile_math.h"

// ScoreMod on key-major tiles (kernels/cpu/tile_math.h).

namespace theria::cpu {

// The additive matrix B of docs/operator_contract.md on the tile that starts at `first_key`, with
// -inf for keys past seq_kv. False, and `bias` is left alone, where all of it is zero. Columns past
// the block's queries are unspecified.
bool MakeBiasTile(const ScoreMod& mod, const QueryBlock& block, std::int64_t first_key,
                  TileSize size, double* bias);

// The dropout matrix Z: 0 or 1 / (1 - probability). `plane` is batch * heads_q + head.
// REQUIRES: mod.enabled(); the block and the tile start at even indices.
void MakeKeepTile(const DropoutMod& mod, std::uint64_t plane, std::int64_t first_query,
                  std::int64_t first_key, TileSize size, double* keep);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_SCORE_TILE_H_
