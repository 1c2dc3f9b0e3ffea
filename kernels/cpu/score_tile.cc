#include "kernels/cpu/score_tile.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "kernels/cpu/convert.h"

namespace theria::cpu {
namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

double MaskBias(const ScoreMod& mod, const void* element) {
  if (mod.mask_dtype != DType::kBool) return ReadElement(mod.mask_dtype, element);
  return *static_cast<const unsigned char*>(element) != 0 ? 0.0 : kForbidden;
}

double AlibiSlope(const ScoreMod& mod, const QueryBlock& block) {
  if (mod.alibi_slopes == nullptr) return 0.0;
  const std::int64_t element =
      block.batch * mod.alibi_strides[0] + block.head * mod.alibi_strides[1];
  return ReadElement(mod.alibi_dtype,
                     static_cast<const char*>(mod.alibi_slopes) +
                         element * static_cast<std::int64_t>(ItemSizeBytes(mod.alibi_dtype)));
}

}  // namespace

bool MakeBiasTile(const ScoreMod& mod, const QueryBlock& block, std::int64_t first_key,
                  TileSize size, double* bias) {
  const bool all_keys_in_range =
      block.seen_by_all.begin <= first_key && block.seen_by_all.end >= first_key + size.keys;
  if (all_keys_in_range && mod.mask == nullptr && mod.alibi_slopes == nullptr) return false;

  std::fill_n(bias, size.count(), 0.0);
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(mod.mask_dtype));
  const double slope = AlibiSlope(mod, block);
  for (std::int64_t query = 0; query < block.queries; ++query) {
    const std::int64_t i = block.first_query + query;
    const ScoreRow row = mod.Row(block.batch, i);
    const char* mask_row = nullptr;
    if (mod.mask != nullptr) {
      mask_row = static_cast<const char*>(mod.mask) +
                 (block.batch * mod.mask_strides[0] + block.head * mod.mask_strides[1] +
                  i * mod.mask_strides[2]) *
                     item_bytes;
    }
    for (std::int64_t key = 0; key < size.keys; ++key) {
      const std::int64_t j = first_key + key;
      double& element = bias[key * size.queries + query];
      if (j < row.keys.begin || j >= row.keys.end) {
        element = kForbidden;
        continue;
      }
      if (mask_row != nullptr) {
        element = MaskBias(mod, mask_row + j * mod.mask_strides[3] * item_bytes);
      }
      if (mod.alibi_slopes != nullptr) element += ScoreMod::Alibi(slope, row.diagonal, j);
    }
  }
  return true;
}

void CapScores(const SoftcapMod& mod, TileSize size, double scale, double* s, double* t,
               double* w) {
  for (std::int64_t at = 0; at < size.count(); ++at) {
    t[at] = mod.Tanh(scale * s[at]);
    s[at] = mod.Score(t[at]);
    if (w != nullptr) w[at] = mod.Slope(t[at]);
  }
}

void CapTangents(const SoftcapMod& mod, TileSize size, double scale, const double* t,
                 const double* w, double* s_dot, double* bend) {
  for (std::int64_t at = 0; at < size.count(); ++at) {
    s_dot[at] *= scale * w[at];
    if (bend != nullptr) bend[at] = mod.Bend(t[at], s_dot[at]);
  }
}

void UncapDerivatives(TileSize size, const double* p, const double* w, const double* bend,
                      double* s_bar, double* s_bar_dot) {
  for (std::int64_t at = 0; at < size.count(); ++at) {
    if (std::signbit(p[at])) continue;  // zero already, where w may be NaN
    if (s_bar_dot != nullptr) s_bar_dot[at] = w[at] * s_bar_dot[at] - bend[at] * s_bar[at];
    s_bar[at] *= w[at];
  }
}

void AddBiasTangent(const TensorView& bias_dot, const QueryBlock& block, std::int64_t first_key,
                    std::int64_t seq_kv, TileSize size, double scale, double* s_dot) {
  const std::array<std::int64_t, kMaxRank> strides = BroadcastStrides(bias_dot);
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(bias_dot.dtype));
  const char* const first = static_cast<const char*>(bias_dot.data) +
                            (block.batch * strides[0] + block.head * strides[1] +
                             block.first_query * strides[2] + first_key * strides[3]) *
                                item_bytes;
  const std::int64_t keys = std::min(size.keys, seq_kv - first_key);
  for (std::int64_t key = 0; key < keys; ++key) {
    for (std::int64_t query = 0; query < block.queries; ++query) {
      double& element = s_dot[key * size.queries + query];
      element =
          scale * element +
          ReadElement(bias_dot.dtype, first + (query * strides[2] + key * strides[3]) * item_bytes);
    }
  }
}

void MakeKeepTile(const DropoutMod& mod, std::uint64_t plane, std::int64_t first_query,
                  std::int64_t first_key, TileSize size, double* keep) {
  const auto factor = [&](std::uint32_t draw) {
    return draw >= mod.drop_below ? mod.keep_scale : 0.0;
  };
  for (std::int64_t key = 0; key < size.keys; key += 2) {
    double* even = keep + key * size.queries;
    double* odd = even + size.queries;
    for (std::int64_t query = 0; query < size.queries; query += 2) {
      const PhiloxCounter draws = mod.Block(plane, first_query + query, first_key + key);
      even[query] = factor(draws.x);
      odd[query] = factor(draws.y);
      even[query + 1] = factor(draws.z);
      odd[query + 1] = factor(draws.w);
    }
  }
}

}  // namespace theria::cpu
