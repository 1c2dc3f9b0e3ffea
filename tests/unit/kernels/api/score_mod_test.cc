#include "kernels/api/score_mod.h"

#include <gtest/gtest.h>

#include <cmath>

namespace theria {
namespace {

TEST(DropoutModTest, NoneIsDisabled) {
  EXPECT_FALSE(MakeDropoutMod(0.0, 1, 2).enabled());
  EXPECT_EQ(MakeDropoutMod(0.0, 1, 2).keep_scale, 1.0);
}

TEST(DropoutModTest, KeepsTheRightShare) {
  constexpr int kSide = 512;
  for (const double probability : {0.1, 0.5, 0.9}) {
    const DropoutMod mod = MakeDropoutMod(probability, 3, 4);
    EXPECT_DOUBLE_EQ(mod.keep_scale, 1.0 / (1.0 - probability));
    int kept = 0;
    for (int i = 0; i < kSide; ++i) {
      for (int j = 0; j < kSide; ++j) kept += mod.Keeps(7, i, j);
    }
    const double expected = (1.0 - probability) * kSide * kSide;
    const double deviation = std::sqrt(expected * probability);
    EXPECT_NEAR(kept, expected, 5 * deviation) << probability;
  }
}

// Keeps is the draw of Block that the header numbers 2 * (i & 1) + (j & 1).
TEST(DropoutModTest, KeepsFollowsBlock) {
  const DropoutMod mod = MakeDropoutMod(0.5, 5, 6);
  for (int i = 0; i < 8; ++i) {
    for (int j = 0; j < 8; ++j) {
      const PhiloxCounter block = mod.Block(1, i, j);
      const std::uint32_t draws[] = {block.x, block.y, block.z, block.w};
      EXPECT_EQ(mod.Keeps(1, i, j), draws[2 * (i & 1) + (j & 1)] >= mod.drop_below);
    }
  }
}

TEST(DropoutModTest, SeedOffsetAndPlaneGiveOtherDraws) {
  const auto agreement = [](const DropoutMod& a, std::uint64_t plane_a, const DropoutMod& b,
                            std::uint64_t plane_b) {
    int equal = 0;
    for (int i = 0; i < 64; ++i) {
      for (int j = 0; j < 64; ++j) equal += a.Keeps(plane_a, i, j) == b.Keeps(plane_b, i, j);
    }
    return equal / (64.0 * 64.0);
  };
  const DropoutMod mod = MakeDropoutMod(0.5, 1, 1);
  EXPECT_EQ(agreement(mod, 0, MakeDropoutMod(0.5, 1, 1), 0), 1.0);
  // Unrelated draws agree half the time; 0.04 is five standard deviations.
  EXPECT_NEAR(agreement(mod, 0, MakeDropoutMod(0.5, 2, 1), 0), 0.5, 0.04);
  EXPECT_NEAR(agreement(mod, 0, MakeDropoutMod(0.5, 1, 2), 0), 0.5, 0.04);
  EXPECT_NEAR(agreement(mod, 0, MakeDropoutMod(0.5, 1 + (std::uint64_t{1} << 32), 1), 0), 0.5,
              0.04);
  EXPECT_NEAR(agreement(mod, 0, mod, 1), 0.5, 0.04);
  EXPECT_NEAR(agreement(mod, 0, mod, std::uint64_t{1} << 32), 0.5, 0.04);
}

TEST(ScoreModTest, KeysOfARow) {
  ScoreMod mod;
  EXPECT_EQ(mod.Keys(5, 10).begin, 0);
  EXPECT_EQ(mod.Keys(5, 10).end, 10);
  mod.window_left = 2;
  mod.window_right = 0;
  EXPECT_EQ(mod.Keys(5, 10).begin, 3);
  EXPECT_EQ(mod.Keys(5, 10).end, 6);
  EXPECT_EQ(mod.Keys(1, 10).begin, 0);
  EXPECT_GE(mod.Keys(20, 10).begin, mod.Keys(20, 10).end);
}

}  // namespace
}  // namespace theria
