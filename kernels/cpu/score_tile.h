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

// The soft cap on a tile of scaled products U: s = scale * s becomes c t, with t = tanh(s / c), and
// w its derivative. No `w` is not needed.
void CapScores(const SoftcapMod& mod, TileSize size, double scale, double* s, double* t, double* w);

// s_dot = w * scale * s_dot, the tangent of the capped scores; bend = SoftcapMod::Bend of it. No
// `bend` is not needed.
void CapTangents(const SoftcapMod& mod, TileSize size, double scale, const double* t,
                 const double* w, double* s_dot, double* bend);

// From the derivatives with respect to S to those with respect to U, in place:
//   s_bar_dot = w∘s_bar_dot - bend∘s_bar, s_bar = w∘s_bar
// and 0 for the forbidden pairs that `p` marks. No `s_bar_dot` is not needed.
void UncapDerivatives(TileSize size, const double* p, const double* w, const double* bend,
                      double* s_bar, double* s_bar_dot);

// s_dot = scale * s_dot + bias_dot, which broadcasts as the mask does.
void AddBiasTangent(const TensorView& bias_dot, const QueryBlock& block, std::int64_t first_key,
                    std::int64_t seq_kv, TileSize size, double scale, double* s_dot);

// The dropout matrix Z: 0 or 1 / (1 - probability). `plane` is batch * heads_q + head.
// REQUIRES: mod.enabled(); the block and the tile start at even indices.
void MakeKeepTile(const DropoutMod& mod, std::uint64_t plane, std::int64_t first_query,
                  std::int64_t first_key, TileSize size, double* keep);

}  // namespace theria::cpu

#endif  // THERIA_KERNELS_CPU_SCORE_TILE_H_
