#include "server/rpc/lengths.h"

#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::server {
namespace {

using testing::ElementsAre;

// The field of the error, or "" for none.
std::string FieldAtFault(std::string_view option, const std::vector<std::int32_t>& values) {
  const AttentionProblem problem = {.seq_q = 5, .seq_kv = 7};
  return FieldOf(CheckLengths(option, values, problem)).value_or("");
}

TEST(LengthsTest, KeyLengthsAreFromNoneToAllKeys) {
  EXPECT_EQ(FieldAtFault("kv_lengths", {0, 7, 3}), "");
  EXPECT_EQ(FieldAtFault("kv_lengths", {0, 8}), "options.kv_lengths[1]");
  EXPECT_EQ(FieldAtFault("kv_lengths", {-1}), "options.kv_lengths[0]");
}

TEST(LengthsTest, DocumentsBeginAtZeroEndWithTheTensorAndDoNotDecrease) {
  EXPECT_EQ(FieldAtFault("cu_seqlens_q", {0, 2, 2, 5}), "");
  EXPECT_EQ(FieldAtFault("cu_seqlens_kv", {0, 7}), "");
  EXPECT_EQ(FieldAtFault("cu_seqlens_q", {1, 5}), "options.cu_seqlens_q[0]");
  EXPECT_EQ(FieldAtFault("cu_seqlens_q", {0, 3, 2, 5}), "options.cu_seqlens_q[2]");
  EXPECT_EQ(FieldAtFault("cu_seqlens_q", {0, 7}), "options.cu_seqlens_q[1]");
  EXPECT_EQ(FieldAtFault("cu_seqlens_kv", {0, 5}), "options.cu_seqlens_kv[1]");
}

TEST(LengthsTest, ReadsAlongTheStride) {
  const std::int32_t values[] = {1, 2, 3, 4, 5};
  TensorView view = RowMajorView<const void>(values, DType::kInt32, {3});
  view.strides[0] = 2;
  EXPECT_THAT(ReadLengths(view), ElementsAre(1, 3, 5));
}

}  // namespace
}  // namespace theria::server
