#include "client/cli/parity/dropout_matrix.h"

#include <array>
#include <cstdint>

#include "gtest/gtest.h"

namespace theria::cli {
namespace {

// The known answers that the authors of Philox publish with Random123.
TEST(PhiloxTest, GivesTheKnownAnswers) {
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(DropoutMatrixTest, KeepsAllWithoutDropout) {
  const DropoutMatrix z({.probability = 0.0, .seed = 3}, 2);
  for (int j = 0; j < 20; ++j) EXPECT_EQ(z(0, 1, 2, j), 1.0);
}

TEST(DropoutMatrixTest, DropsTheGivenShareAndScalesTheRest) {
  const DropoutMatrix z({.probability = 0.25, .seed = 7, .offset = 3}, 2);
  int dropped = 0;
  for (int i = 0; i < 200; ++i) {
    for (int j = 0; j < 200; ++j) {
      const double element = z(0, 0, i, j);
      EXPECT_TRUE(element == 0.0 || element == 1.0 / 0.75);
      dropped += element == 0.0 ? 1 : 0;
    }
  }
  EXPECT_NEAR(dropped, 10000, 400);
}

TEST(DropoutMatrixTest, DependsOnEveryIndexAndOnSeedAndOffset) {
  const client::Dropout dropout = {.probability = 0.5, .seed = 7, .offset = 3};
  const auto bits = [](const client::Dropout& of, int b, int h, int first_row, int first_key) {
    const DropoutMatrix z(of, 2);
    std::uint64_t word = 0;
    for (int n = 0; n < 64; ++n) {
      word = word * 2 + (z(b, h, first_row + n / 8, first_key + n % 8) == 0.0 ? 1 : 0);
    }
    return word;
  };
  const std::uint64_t base = bits(dropout, 0, 0, 0, 0);
  EXPECT_EQ(base, bits(dropout, 0, 0, 0, 0));
  EXPECT_NE(base, bits(dropout, 1, 0, 0, 0));
  EXPECT_NE(base, bits(dropout, 0, 1, 0, 0));
  EXPECT_NE(base, bits(dropout, 0, 0, 1, 0));
  EXPECT_NE(base, bits(dropout, 0, 0, 0, 1));
  EXPECT_NE(base, bits({.probability = 0.5, .seed = 8, .offset = 3}, 0, 0, 0, 0));
  EXPECT_NE(base, bits({.probability = 0.5, .seed = 7, .offset = 4}, 0, 0, 0, 0));
}

}  // namespace
}  // namespace theria::cli
