#include "kernels/cpu/score_tile.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace theria::cpu {
namespace {

constexpr double kForbidden = -std::numeric_limits<double>::infinity();
constexpr TileSize kSize = {8, 16};

ScoreMod Mod(std::int64_t seq_q, std::int64_t seq_kv) {
  ScoreMod mod;
  mod.seq_q = seq_q;
  mod.seq_kv = seq_kv;
  return mod;
}

QueryBlock Block(std::int64_t first_query, std::int64_t queries) {
  QueryBlock block;
  block.first_query = first_query;
  block.queries = queries;
  return block;
}

TEST(ScoreTileTest, NothingToAddInside) {
  ScoreMod mod = Mod(32, 16);
  std::vector<double> bias(kSize.count());
  EXPECT_FALSE(MakeBiasTile(mod, Block(0, 16), 8, kSize, bias.data()));
  mod.seq_kv = 32;
  mod.window_right = 0;
  EXPECT_FALSE(MakeBiasTile(mod, Block(16, 16), 8, kSize, bias.data()));
  EXPECT_TRUE(MakeBiasTile(mod, Block(16, 16), 16, kSize, bias.data()));
}

TEST(ScoreTileTest, WindowAndEndOfKeys) {
  ScoreMod mod = Mod(16, 13);
  mod.window_left = 3;
  mod.window_right = 1;
  std::vector<double> bias(kSize.count());
  ASSERT_TRUE(MakeBiasTile(mod, Block(0, 16), 8, kSize, bias.data()));
  for (std::int64_t key = 0; key < kSize.keys; ++key) {
    for (std::int64_t i = 0; i < kSize.queries; ++i) {
      const std::int64_t j = 8 + key;
      const bool allowed = j >= i - 3 && j <= i + 1 && j < 13;
      EXPECT_EQ(bias[key * kSize.queries + i], allowed ? 0.0 : kForbidden) << i << " " << j;
    }
  }
}

TEST(ScoreTileTest, AdditiveMaskByStrides) {
  ScoreMod mod = Mod(16, 20);
  std::vector<float> mask(2 * 16 * 20);
  for (std::size_t i = 0; i < mask.size(); ++i) mask[i] = static_cast<float>(i);
  mod.mask = mask.data();
  mod.mask_dtype = DType::kFloat32;
  mod.mask_strides[1] = 320;
  mod.mask_strides[2] = 1;
  mod.mask_strides[3] = 16;
  QueryBlock block = Block(0, 16);
  block.batch = 5;  // repeated
  block.head = 1;
  std::vector<double> bias(kSize.count());
  ASSERT_TRUE(MakeBiasTile(mod, block, 8, kSize, bias.data()));
  for (std::int64_t key = 0; key < kSize.keys; ++key) {
    for (std::int64_t i = 0; i < kSize.queries; ++i) {
      EXPECT_EQ(bias[key * kSize.queries + i], mask[320 + i + 16 * (8 + key)]);
    }
  }
}

TEST(ScoreTileTest, KeepIsTheDropoutMatrix) {
  const DropoutMod mod = MakeDropoutMod(0.3, 11, 12);
  std::vector<double> keep(kSize.count());
  MakeKeepTile(mod, 5, 32, 64, kSize, keep.data());
  for (std::int64_t key = 0; key < kSize.keys; ++key) {
    for (std::int64_t query = 0; query < kSize.queries; ++query) {
      EXPECT_EQ(keep[key * kSize.queries + query],
                mod.Keeps(5, 32 + query, 64 + key) ? mod.keep_scale : 0.0);
    }
  }
}

}  // namespace
}  // namespace theria::cpu
