#include "server/cache/handle.h"

#include <array>
#include <cmath>
#include <set>
#include <string>

#include "gtest/gtest.h"

namespace theria::server {
namespace {

TEST(HandleTest, TextRoundTrips) {
  const Handle handle = *Handle::Random();
  const std::string text = handle.ToString();
  EXPECT_EQ(text.size(), 48);
  EXPECT_EQ(text.find_first_not_of("0123456789abcdef"), std::string::npos);
  ASSERT_TRUE(Handle::Parse(text).has_value());
  EXPECT_TRUE(*Handle::Parse(text) == handle);
}

TEST(HandleTest, RefusesWhatToStringDoesNotGive) {
  const std::string text = Handle::Random()->ToString();
  EXPECT_FALSE(Handle::Parse("").has_value());
  EXPECT_FALSE(Handle::Parse(text.substr(1)).has_value());
  EXPECT_FALSE(Handle::Parse(text + "0").has_value());
  for (const char wrong : {'g', 'A', ' ', '\0', 'x', '-'}) {
    std::string changed = text;
    changed[17] = wrong;
    EXPECT_FALSE(Handle::Parse(changed).has_value()) << wrong;
  }
}

TEST(HandleTest, EveryBitTellsHandlesApart) {
  const std::string text = Handle::Random()->ToString();
  for (std::size_t i = 0; i < text.size(); ++i) {
    std::string changed = text;
    changed[i] = changed[i] == '0' ? '1' : '0';
    EXPECT_FALSE(*Handle::Parse(changed) == *Handle::Parse(text)) << i;
  }
}

// Each bit of 20,000 draws is set about half of the time: within six standard deviations, which a
// fair generator leaves once in a million runs for all 192 bits together.
TEST(HandleTest, BitsAreFairAndHandlesDistinct) {
  constexpr int kDraws = 20000;
  std::set<std::string> seen;
  std::array<int, 192> ones{};
  for (int draw = 0; draw < kDraws; ++draw) {
    const std::string text = Handle::Random()->ToString();
    seen.insert(text);
    for (std::size_t bit = 0; bit < ones.size(); ++bit) {
      const char digit = text[bit / 4];
      const int value = digit <= '9' ? digit - '0' : digit - 'a' + 10;
      ones[bit] += (value >> (3 - bit % 4)) & 1;
    }
  }
  EXPECT_EQ(seen.size(), kDraws);
  for (const int count : ones) {
    EXPECT_NEAR(count, kDraws / 2, 6 * std::sqrt(kDraws / 4.0));
  }
}

TEST(HandleTest, HashFollowsEquality) {
  const Handle a = *Handle::Random();
  const Handle b = *Handle::Random();
  EXPECT_EQ(Handle::Hash{}(a), Handle::Hash{}(*Handle::Parse(a.ToString())));
  EXPECT_NE(Handle::Hash{}(a), Handle::Hash{}(b));
}

}  // namespace
}  // namespace theria::server
