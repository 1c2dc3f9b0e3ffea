#include "server/cache/tensor_spec.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/api/attention.h"

namespace theria::server {
namespace {

constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

TEST(TensorSpecTest, SizeIsTheProductOfExtentsAndItem) {
  EXPECT_EQ((TensorSpec{DType::kFloat64, {2, 3, 5}}).SizeBytes(), 240);
  EXPECT_EQ((TensorSpec{DType::kBFloat16, {7}}).SizeBytes(), 14);
  EXPECT_EQ((TensorSpec{DType::kFloat32, {}}).SizeBytes(), 4);
  EXPECT_EQ(*CheckedSizeBytes({DType::kFloat64, {2, 3, 5}}, 240), 240);
  EXPECT_EQ(*CheckedSizeBytes({DType::kBool, {1, 1, 1, 1, 1, 1, 1, 9}}, kNoLimit), 9);
}

TEST(TensorSpecTest, NamesTheFieldAtFault) {
  const std::int64_t big = std::int64_t{1} << 62;
  const struct {
    TensorSpec spec;
    std::size_t limit;
    const char* field;
  } cases[] = {
      {{DType::kFloat64, {2, 3, 5}}, 239, "shape"},
      {{DType::kFloat32, {}}, 3, "shape"},
      {{DType::kBool, {1, 1, 1, 1, 1, 1, 1, 1, 1}}, kNoLimit, "shape"},
      {{DType::kBool, {4, 0}}, kNoLimit, "shape[1]"},
      {{DType::kBool, {-1, 4}}, kNoLimit, "shape[0]"},
      {{DType::kBool, {-1, -1}}, kNoLimit, "shape[0]"},
      {{DType::kFloat64, {big}}, kNoLimit, "shape"},
      {{DType::kBool, {big, 4}}, kNoLimit, "shape"},
      {{DType::kBool, {big, big, big, big}}, kNoLimit, "shape"},
      {{DType::kBool, {std::numeric_limits<std::int64_t>::min()}}, kNoLimit, "shape[0]"},
  };
  for (const auto& wrong : cases) {
    const auto size = CheckedSizeBytes(wrong.spec, wrong.limit);
    EXPECT_EQ(size.status().code(), absl::StatusCode::kInvalidArgument) << size.status();
    EXPECT_EQ(FieldOf(size.status()), wrong.field) << size.status();
  }
}

}  // namespace
}  // namespace theria::server
