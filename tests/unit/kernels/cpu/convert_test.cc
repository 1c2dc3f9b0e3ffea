#include "kernels/cpu/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace theria::cpu {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double Value(DType dtype, std::uint16_t bits) { return ReadElement(dtype, &bits); }

std::uint16_t Rounded(DType dtype, double value) {
  std::uint16_t bits = 0;
  WriteElement(dtype, value, &bits);
  return bits;
}

class SmallFloatTest : public testing::TestWithParam<DType> {
 protected:
  std::uint16_t infinity() const { return GetParam() == DType::kFloat16 ? 0x7C00 : 0x7F80; }
};

TEST_P(SmallFloatTest, KnownValues) {
  const bool half = GetParam() == DType::kFloat16;
  EXPECT_EQ(Value(GetParam(), half ? 0x3C00 : 0x3F80), 1.0);
  EXPECT_EQ(Value(GetParam(), half ? 0xC000 : 0xC000), -2.0);
  EXPECT_EQ(Value(GetParam(), 0x0001), half ? 0x1p-24 : 0x1p-133);
  EXPECT_EQ(Value(GetParam(), infinity() - 1), half ? 65504.0 : 0x1.FEp127);
  EXPECT_EQ(Value(GetParam(), infinity()), kInfinity);
  EXPECT_TRUE(std::signbit(Value(GetParam(), 0x8000)));
}

TEST_P(SmallFloatTest, EveryNumberComesBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto small = static_cast<std::uint16_t>(bits);
    const double value = Value(GetParam(), small);
    if ((small & 0x7FFF) > infinity()) {
      ASSERT_TRUE(std::isnan(value));
      ASSERT_TRUE(std::isnan(Value(GetParam(), Rounded(GetParam(), value))));
    } else {
      ASSERT_EQ(Rounded(GetParam(), value), small);
    }
  }
}

// Between each two neighbours: the exact middle goes to the even one, anything off it to the
// nearer. The smallest possible step off the middle is where rounding twice, by way of float32,
// goes wrong.
TEST_P(SmallFloatTest, RoundsToNearestEven) {
  for (std::uint16_t below = 0; below < infinity(); ++below) {
    const auto above = static_cast<std::uint16_t>(below + 1);
    const double low = Value(GetParam(), below);
    // The largest finite number's upper neighbour, were there one.
    const double high = above == infinity()
                            ? low + (low - Value(GetParam(), static_cast<std::uint16_t>(below - 1)))
                            : Value(GetParam(), above);
    const double middle = low + (high - low) / 2;
    for (const double sign : {1.0, -1.0}) {
      const std::uint16_t sign_bit = sign < 0 ? 0x8000 : 0;
      ASSERT_EQ(Rounded(GetParam(), sign * middle), ((below & 1) ? above : below) | sign_bit);
      ASSERT_EQ(Rounded(GetParam(), sign * std::nextafter(middle, 0.0)), below | sign_bit);
      ASSERT_EQ(Rounded(GetParam(), sign * std::nextafter(middle, kInfinity)), above | sign_bit);
    }
  }
}

TEST_P(SmallFloatTest, BeyondTheRange) {
  EXPECT_EQ(Rounded(GetParam(), 1e300), infinity());
  EXPECT_EQ(Rounded(GetParam(), -kInfinity), infinity() | 0x8000);
  EXPECT_EQ(Rounded(GetParam(), 1e-300), 0);
  EXPECT_EQ(Rounded(GetParam(), -std::numeric_limits<double>::denorm_min()), 0x8000);
}

INSTANTIATE_TEST_SUITE_P(All, SmallFloatTest, testing::Values(DType::kFloat16, DType::kBFloat16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

TEST(TileTest, ReadsByStridesFromAnyAddress) {
  // [batch 2, heads 2, rows 5, columns 3] with a column stride of 2, one byte off.
  std::vector<unsigned char> bytes(1 + 2 * 2 * 5 * 6 * sizeof(float), 0xFF);
  TensorView view = RowMajorView<const void>(bytes.data() + 1, DType::kFloat32, {2, 2, 5, 3});
  view.strides = {60, 30, 6, 2};
  const auto value = [](int b, int h, int r, int c) {
    return static_cast<float>(1000 * b + 100 * h + 10 * r + c);
  };
  for (int b = 0; b < 2; ++b) {
    for (int h = 0; h < 2; ++h) {
      for (int r = 0; r < 5; ++r) {
        for (int c = 0; c < 3; ++c) {
          const float element = value(b, h, r, c);
          std::memcpy(bytes.data() + 1 + (b * 60 + h * 30 + r * 6 + c * 2) * sizeof(float),
                      &element, sizeof(element));
        }
      }
    }
  }
  double tile[8 * 8];
  ReadTile(view, {1, 1, 2, 3}, 8, 8, tile);
  for (int r = 0; r < 8; ++r) {
    for (int c = 0; c < 8; ++c) {
      EXPECT_EQ(tile[r * 8 + c], r < 3 && c < 3 ? value(1, 1, r + 2, c) : 0.0) << r << " " << c;
    }
  }

  std::vector<unsigned char> written(bytes.size(), 0xFF);
  MutableTensorView out = RowMajorView<void>(written.data() + 1, DType::kFloat32, {2, 2, 5, 3});
  out.strides = view.strides;
  for (int b = 0; b < 2; ++b) {
    for (int h = 0; h < 2; ++h) {
      ReadTile(view, {b, h, 0, 5}, 8, 8, tile);
      WriteTile(tile, 8, 1.0, {b, h, 0, 5}, out);
    }
  }
  EXPECT_EQ(written, bytes);
}

TEST(TileTest, StatisticsAreOneColumn) {
  const double lse[] = {1, 2, 3, 4, 5, 6};
  const TensorView view = RowMajorView<const void>(lse, DType::kFloat64, {1, 2, 3});
  double tile[8];
  ReadTile(view, {0, 1, 1, 2}, 8, 1, tile);
  EXPECT_EQ(std::vector<double>(tile, tile + 3), (std::vector<double>{5, 6, 0}));
  double written[6] = {};
  WriteTile(tile, 1, 2.0, {0, 1, 0, 2}, RowMajorView<void>(written, DType::kFloat64, {1, 2, 3}));
  EXPECT_EQ(written[3], 10.0);
  EXPECT_EQ(written[4], 12.0);
  EXPECT_EQ(written[5], 0.0);
}

}  // namespace
}  // namespace theria::cpu
