#include "kernels/api/philox.h"

#include <gtest/gtest.h>

#include <array>

namespace theria {
namespace {

std::array<std::uint32_t, 4> Words(const PhiloxCounter& c) { return {c.x, c.y, c.z, c.w}; }

// The known answers that the authors' Random123 library publishes for philox4x32-10.
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Words(Philox4x32({0, 0, 0, 0}, {0, 0})),
            (std::array<std::uint32_t, 4>{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr std::uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Words(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes})),
            (std::array<std::uint32_t, 4>{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  // Counter and key are digits of pi.
  EXPECT_EQ(
      Words(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0})),
      (std::array<std::uint32_t, 4>{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

}  // namespace
}  // namespace theria
