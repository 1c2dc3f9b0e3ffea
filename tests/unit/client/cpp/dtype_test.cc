#include "theria/dtype.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace theria::client {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(Float16Test, KnownValues) {
  EXPECT_EQ(Float16(0.0).bits(), 0x0000);
  EXPECT_EQ(Float16(-0.0).bits(), 0x8000);
  EXPECT_EQ(Float16(1.0).bits(), 0x3c00);
  EXPECT_EQ(Float16(-2.0).bits(), 0xc000);
  EXPECT_EQ(Float16(65504.0).bits(), 0x7bff);  // the largest
  EXPECT_EQ(Float16(0x1p-14).bits(), 0x0400);  // the smallest normal
  EXPECT_EQ(Float16(0x1p-24).bits(), 0x0001);  // the smallest
  EXPECT_EQ(Float16(-kInfinity).bits(), 0xfc00);
  EXPECT_TRUE(std::isnan(static_cast<double>(Float16(std::nan("")))));
}

TEST(Float16Test, RoundsToNearestTiesToEven) {
  EXPECT_EQ(static_cast<double>(Float16(1.0 + 0x1p-11)), 1.0);
  EXPECT_EQ(static_cast<double>(Float16(1.0 + 3 * 0x1p-11)), 1.0 + 0x1p-9);
  EXPECT_EQ(static_cast<double>(Float16(1.0 + 0x1p-11 + 0x1p-40)), 1.0 + 0x1p-10);
  EXPECT_EQ(static_cast<double>(Float16(2.0 - 0x1p-12)), 2.0);  // carries into the exponent
  EXPECT_EQ(Float16(0x1p-25).bits(), 0x0000);
  EXPECT_EQ(Float16(0x1.8p-25).bits(), 0x0001);
  EXPECT_EQ(Float16(0x1p-14 - 0x1p-26).bits(), 0x0400);  // from subnormal to normal
  EXPECT_EQ(static_cast<double>(Float16(65519.0)), 65504.0);
  EXPECT_EQ(static_cast<double>(Float16(65520.0)), kInfinity);
}

// float32 would round the first 13 bits away and make a tie of what is none.
TEST(Float16Test, RoundsOnce) {
  EXPECT_EQ(static_cast<double>(Float16(1.0 + 0x1p-11 + 0x1p-30)), 1.0 + 0x1p-10);
}

TEST(BFloat16Test, KnownValues) {
  EXPECT_EQ(BFloat16(1.0).bits(), 0x3f80);
  EXPECT_EQ(BFloat16(-kInfinity).bits(), 0xff80);
  EXPECT_EQ(static_cast<double>(BFloat16(1.0 + 0x1p-8)), 1.0);
  EXPECT_EQ(static_cast<double>(BFloat16(1.0 + 3 * 0x1p-8)), 1.0 + 0x1p-6);
  EXPECT_EQ(static_cast<double>(BFloat16(3.4e38)), kInfinity);
  EXPECT_TRUE(std::isnan(static_cast<double>(BFloat16(std::nan("")))));
}

template <typename T>
class AllBitsTest : public testing::Test {};
using HalfTypes = testing::Types<Float16, BFloat16>;
TYPED_TEST_SUITE(AllBitsTest, HalfTypes);

TYPED_TEST(AllBitsTest, EveryFiniteValueSurvivesTheWayToDoubleAndBack) {
  int finite = 0;
  for (int bits = 0; bits < 0x10000; ++bits) {
    const double value =
        static_cast<double>(std::bit_cast<TypeParam>(static_cast<std::uint16_t>(bits)));
    if (!std::isfinite(value)) continue;
    ++finite;
    ASSERT_EQ(TypeParam(value).bits(), bits);
  }
  EXPECT_GT(finite, 0xf000);
}

TEST(DTypeTest, NamesAndSizes) {
  EXPECT_EQ(DTypeName(DType::kBFloat16), "bfloat16");
  EXPECT_EQ(ItemSizeBytes(DType::kFloat64), 8u);
  EXPECT_EQ(ItemSizeBytes(DType::kBool), 1u);
  EXPECT_EQ(StatisticsDType(DType::kFloat16), DType::kFloat32);
  EXPECT_EQ(StatisticsDType(DType::kFloat64), DType::kFloat64);
}

}  // namespace
}  // namespace theria::client
