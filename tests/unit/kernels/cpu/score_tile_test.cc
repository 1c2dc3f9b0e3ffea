#include "kernels/cpu/score_tile.h"

#include <gtest/gtest.h>

#include <cmath>
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

QueryBlock Block(const ScoreMod& mod, std::int64_t first_query, std::int64_t queries) {
  QueryBlock block;
  block.first_query = first_query;
  block.queries = queries;
  block.seen_by_all = {mod.Keys(0, first_query + queries - 1).begin, mod.Keys(0, first_query).end};
  return block;
}

TEST(ScoreTileTest, NothingToAddInside) {
  ScoreMod mod = Mod(32, 16);
  std::vector<double> bias(kSize.count());
  EXPECT_FALSE(MakeBiasTile(mod, Block(mod, 0, 16), 8, kSize, bias.data()));
  mod.seq_kv = 32;
  mod.window_right = 0;
  EXPECT_FALSE(MakeBiasTile(mod, Block(mod, 16, 16), 8, kSize, bias.data()));
  EXPECT_TRUE(MakeBiasTile(mod, Block(mod, 16, 16), 16, kSize, bias.data()));
}

TEST(ScoreTileTest, WindowAndEndOfKeys) {
  ScoreMod mod = Mod(16, 13);
  mod.window_left = 3;
  mod.window_right = 1;
  std::vector<double> bias(kSize.count());
  ASSERT_TRUE(MakeBiasTile(mod, Block(mod, 0, 16), 8, kSize, bias.data()));
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
  QueryBlock block = Block(mod, 0, 16);
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

TEST(ScoreTileTest, AlibiOfTheHead) {
  ScoreMod mod = Mod(16, 20);
  const float slopes[] = {9.0f, 0.5f, 9.0f, 0.25f};  // [batch 2, heads 2]
  mod.alibi_slopes = slopes;
  mod.alibi_strides[0] = 2;
  mod.alibi_strides[1] = 1;
  mod.lower_right = true;
  mod.window_right = 3;
  QueryBlock block = Block(mod, 0, 16);
  block.batch = 1;
  block.head = 1;
  std::vector<double> bias(kSize.count());
  ASSERT_TRUE(MakeBiasTile(mod, block, 8, kSize, bias.data()));
  for (std::int64_t key = 0; key < kSize.keys; ++key) {
    for (std::int64_t i = 0; i < kSize.queries; ++i) {
      const auto distance = static_cast<double>(8 + key - (i + 4));
      EXPECT_EQ(bias[key * kSize.queries + i],
                distance > 3 ? kForbidden : -0.25 * std::abs(distance))
          << i << " " << key;
    }
  }
}

TEST(ScoreTileTest, SoftcapAndItsDerivatives) {
  const SoftcapMod mod = {3.0};
  constexpr double kScale = 0.5;
  std::vector<double> s(kSize.count()), t(kSize.count()), w(kSize.count()), bend(kSize.count());
  std::vector<double> s_dot(kSize.count()), p(kSize.count()), s_bar(kSize.count());
  std::vector<double> s_bar_dot(kSize.count());
  for (std::size_t at = 0; at < s.size(); ++at) {
    s[at] = 0.3 * static_cast<double>(at) - 19.0;
    s_dot[at] = 1.0 + static_cast<double>(at % 5);
    p[at] = at % 7 == 0 ? -0.0 : 0.5;
    s_bar[at] = at % 7 == 0 ? 0.0 : 2.0 - static_cast<double>(at % 3);
    s_bar_dot[at] = at % 7 == 0 ? 0.0 : 1.0 + static_cast<double>(at % 2);
  }
  const std::vector<double> products = s, products_dot = s_dot, before = s_bar;
  const std::vector<double> before_dot = s_bar_dot;
  CapScores(mod, kSize, kScale, s.data(), t.data(), w.data());
  CapTangents(mod, kSize, kScale, t.data(), w.data(), s_dot.data(), bend.data());
  w[0] = std::nan("");  // a forbidden pair's
  UncapDerivatives(kSize, p.data(), w.data(), bend.data(), s_bar.data(), s_bar_dot.data());
  for (std::size_t at = 0; at < s.size(); ++at) {
    const double tanh = std::tanh(kScale * products[at] / 3.0);
    const double slope = 1.0 - tanh * tanh;
    EXPECT_DOUBLE_EQ(s[at], 3.0 * tanh);
    EXPECT_NEAR(s_dot[at], slope * kScale * products_dot[at], 1e-15);
    const bool forbidden = at % 7 == 0;
    EXPECT_NEAR(s_bar[at], forbidden ? 0.0 : slope * before[at], 1e-15);
    const double u_dot = kScale * products_dot[at];
    const double expected = slope * before_dot[at] - 2.0 / 3.0 * tanh * slope * u_dot * before[at];
    EXPECT_NEAR(s_bar_dot[at], forbidden ? 0.0 : expected, 1e-15);
  }
}

TEST(ScoreTileTest, BiasTangentBroadcasts) {
  const float numbers[] = {1.0f, 2.0f, 3.0f, 4.0f};  // [heads 2, seq_q 1, seq_kv 1], every other
  TensorView bias_dot = RowMajorView<const void>(numbers, DType::kFloat32, {2, 1, 1});
  bias_dot.strides[0] = 2;
  ScoreMod mod = Mod(16, 13);
  QueryBlock block = Block(mod, 0, 16);
  block.head = 1;
  std::vector<double> s_dot(kSize.count(), 10.0);
  AddBiasTangent(bias_dot, block, 8, 13, kSize, 0.5, s_dot.data());
  for (std::int64_t key = 0; key < 5; ++key) {
    for (std::int64_t i = 0; i < kSize.queries; ++i) {
      EXPECT_EQ(s_dot[key * kSize.queries + i], 8.0);
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
