#include "kernels/cpu/score_tile.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/convert.h"

namespace theria::cpu {
namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();

double MaskBias(const ScoreMod& mod, const void* element) {
  if (mod.mask_dtype != DType::kBool) return ReadElement(mod.mask_dtype, element);
  return *static_cast<const unsigned char*>(element) != 0 ? 0.0 : kForbidden;
}

}  // namespace

bool MakeBiasTile(const ScoreMod& mod, const QueryBlock& block, std::int64_t first_key,
                  TileSize size, double* bias) {
  const std::int64_t last_query = block.first_query + block.queries - 1;
  const bool all_keys_in_range = mod.Keys(block.batch, last_query).begin <= first_key &&
                                 mod.Keys(block.batch, block.first_query).end >= first_key + size.keys;
  if (all_keys_in_range && mod.mask == nullptr) return false;

  std::fill_n(bias, size.count(), 0.0);
  const auto item_bytes = static_cast<std::int64_t>(ItemSizeBytes(mod.mask_dtype));
  for (std::int64_t query = 0; query < block.queries; ++query) {
    const std::int64_t i = block.first_query + query;
    const KeyRange range = mod.Keys(block.batch, i);
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
      if (j < range.begin || j >= range.end) {
        element = kForbidden;
      } else if (mask_row != nullptr) {
        element = MaskBias(mod, mask_row + j * mod.mask_strides[3] * item_bytes);
      }
    }
  }
  return true;
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
