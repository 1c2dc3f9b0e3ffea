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

ScoreMod Mod(std::int64_t seq_q, std::int64_t seq_kv) {
  ScoreMod mod;
  mod.seq_q = seq_q;
  mod.seq_kv = seq_kv;
  return mod;
}

void ExpectKeys(const ScoreMod& mod, std::int64_t batch, std::int64_t i, std::int64_t begin,
                std::int64_t end) {
  const KeyRange keys = mod.Keys(batch, i);
  if (begin >= end) {
    EXPECT_GE(keys.begin, keys.end) << "row " << i;
    return;
  }
  EXPECT_EQ(keys.begin, begin) << "row " << i;
  EXPECT_EQ(keys.end, end) << "row " << i;
}

TEST(ScoreModTest, KeysOfARow) {
  ScoreMod mod = Mod(30, 10);
  ExpectKeys(mod, 0, 5, 0, 10);
  mod.window_left = 2;
  mod.window_right = 0;
  ExpectKeys(mod, 0, 5, 3, 6);
  ExpectKeys(mod, 0, 1, 0, 2);
  ExpectKeys(mod, 0, 20, 0, 0);
}

TEST(ScoreModTest, LowerRightMeetsTheLastKey) {
  ScoreMod mod = Mod(4, 10);
  mod.lower_right = true;
  mod.window_right = 0;
  ExpectKeys(mod, 0, 0, 0, 7);
  ExpectKeys(mod, 0, 3, 0, 10);
  EXPECT_EQ(mod.Row(0, 0).diagonal, 6);
  mod.window_left = 1;
  ExpectKeys(mod, 0, 2, 7, 9);
  mod.seq_q = 12;  // more queries than keys: the first ones see none
  ExpectKeys(mod, 0, 1, 0, 0);
  ExpectKeys(mod, 0, 2, 0, 1);
  EXPECT_EQ(mod.Row(0, 0).diagonal, -2);
}

TEST(ScoreModTest, KeyLengths) {
  const std::int32_t lengths[] = {3, 99, 0, 99, 12, 99, -4};
  ScoreMod mod = Mod(10, 10);
  mod.kv_lengths = {lengths, 2};
  ExpectKeys(mod, 0, 9, 0, 3);
  ExpectKeys(mod, 1, 9, 0, 0);
  ExpectKeys(mod, 2, 9, 0, 10);  // clamped
  ExpectKeys(mod, 3, 9, 0, 0);
  mod.window_right = 0;
  ExpectKeys(mod, 0, 1, 0, 2);
  mod.lower_right = true;  // counts from the tensor's keys
  mod.seq_q = 8;
  EXPECT_EQ(mod.Row(0, 0).diagonal, 2);
}

TEST(ScoreModTest, Documents) {
  const std::int32_t of_q[] = {0, 3, 3, 5, 9};
  const std::int32_t of_kv[] = {0, 2, 6, 6, 11};
  ScoreMod mod = Mod(9, 11);
  mod.cu_seqlens_q = {of_q, 1};
  mod.cu_seqlens_kv = {of_kv, 1};
  mod.documents = 4;
  ExpectKeys(mod, 0, 0, 0, 2);
  ExpectKeys(mod, 0, 2, 0, 2);
  ExpectKeys(mod, 0, 3, 0, 0);  // its document has no keys
  ExpectKeys(mod, 0, 5, 6, 11);
  ExpectKeys(mod, 0, 8, 6, 11);
  mod.window_right = 0;
  ExpectKeys(mod, 0, 5, 6, 7);
  ExpectKeys(mod, 0, 2, 0, 2);
  mod.lower_right = true;
  ExpectKeys(mod, 0, 5, 6, 8);
  ExpectKeys(mod, 0, 0, 0, 0);
  ExpectKeys(mod, 0, 1, 0, 1);
}

// Whatever the offsets hold, keys are in range.
TEST(ScoreModTest, WrongDocumentsStayInRange) {
  const std::int32_t wrong[] = {5, -3, 1 << 30, 2, -1, 7};
  const std::int32_t late[] = {4, 6};
  for (int shift = 0; shift < 4; ++shift) {
    ScoreMod mod = Mod(9, 11);
    mod.cu_seqlens_q = {wrong + shift, 1};
    mod.cu_seqlens_kv = {wrong + 2 - shift / 2, 1};
    mod.documents = 2;
    for (std::int64_t i = 0; i < mod.seq_q; ++i) {
      const KeyRange keys = mod.Keys(0, i);
      if (keys.begin >= keys.end) continue;
      EXPECT_GE(keys.begin, 0);
      EXPECT_LE(keys.end, 11);
    }
  }
  ScoreMod mod = Mod(9, 11);
  mod.cu_seqlens_q = mod.cu_seqlens_kv = {late, 1};
  mod.documents = 1;
  ExpectKeys(mod, 0, 3, 0, 0);
  ExpectKeys(mod, 0, 4, 4, 6);
  ExpectKeys(mod, 0, 8, 0, 0);
}

TEST(ScoreModTest, Alibi) {
  EXPECT_EQ(ScoreMod::Alibi(0.5, 3, 7), -2.0);
  EXPECT_EQ(ScoreMod::Alibi(0.5, 7, 3), -2.0);
  EXPECT_EQ(ScoreMod::Alibi(0.5f, -2, 1), -1.5f);
}

// Slope and Bend are what differences of the score say.
TEST(SoftcapModTest, DerivativesOfTheScore) {
  const SoftcapMod mod = {2.5};
  constexpr double kStep = 1e-4;
  const auto slope = [&](double u) { return mod.Slope(mod.Tanh(u)); };
  const auto score = [&](double u) { return mod.Score(mod.Tanh(u)); };
  for (const double u : {-9.0, -1.0, 0.0, 0.3, 2.0, 40.0}) {
    EXPECT_NEAR(score(u), 2.5 * std::tanh(u / 2.5), 1e-15);
    EXPECT_NEAR(slope(u), (score(u + kStep) - score(u - kStep)) / (2 * kStep), 1e-8);
    const double u_dot = 0.7;
    EXPECT_NEAR(mod.Bend(mod.Tanh(u), slope(u) * u_dot),
                -(slope(u + kStep * u_dot) - slope(u - kStep * u_dot)) / (2 * kStep), 1e-8);
  }
}

}  // namespace
}  // namespace theria
