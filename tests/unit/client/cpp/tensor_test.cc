#include "theria/tensor.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::client {
namespace {

using testing::ElementsAre;

TEST(TensorTest, OwnsACopyOfValues) {
  std::vector<float> values = {1, 2, 3, 4, 5, 6};
  const Tensor tensor = Tensor::FromValues(values, {2, 3});
  values[0] = 9;
  EXPECT_TRUE(tensor.owns_elements());
  EXPECT_EQ(tensor.strides(), (Shape{3, 1}));
  EXPECT_EQ(tensor.size_bytes(), 24u);
  EXPECT_THAT(tensor.values<float>(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST(TensorTest, BorrowsWithoutCopying) {
  const std::vector<double> values = {1, 2, 3, 4};
  const Tensor tensor = Tensor::Borrow(values.data(), {2, 2});
  EXPECT_FALSE(tensor.owns_elements());
  EXPECT_EQ(tensor.data(), values.data());
}

TEST(TensorTest, CopiesShareElements) {
  Tensor tensor = Tensor::Zeros(DType::kFloat32, {2});
  const Tensor copy = tensor;
  tensor.mutable_values<float>()[1] = 5;
  EXPECT_THAT(copy.values<float>(), ElementsAre(0, 5));
}

TEST(TensorTest, TransposedViewBecomesRowMajor) {
  const Tensor tensor = Tensor::FromValues<float>({1, 2, 3, 4, 5, 6}, {2, 3});
  const Tensor view = tensor.Transposed(0, 1);
  EXPECT_EQ(view.shape(), (Shape{3, 2}));
  EXPECT_EQ(view.data(), tensor.data());
  EXPECT_FALSE(view.is_row_major());
  EXPECT_EQ(view.span_bytes(), 24u);
  EXPECT_THAT(view.RowMajor().values<float>(), ElementsAre(1, 4, 2, 5, 3, 6));
}

TEST(TensorTest, BroadcastRepeatsByStridesOfZero) {
  const Tensor row = Tensor::FromValues<double>({1, 2}, {1, 2});
  const Tensor view = row.BroadcastTo({2, 3, 2});
  EXPECT_EQ(view.strides(), (Shape{0, 0, 1}));
  EXPECT_EQ(view.span_bytes(), 16u);
  EXPECT_EQ(view.size_bytes(), 96u);
  EXPECT_THAT(view.ToDoubles(), ElementsAre(1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2));
}

// Each item size has its own copy loop.
TEST(TensorTest, RowMajorCopiesOfEveryItemSize) {
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    const std::vector<double> values = {1, 2, 3, 4, 5, 6};
    const Tensor tensor = Tensor::FromDoubles(dtype, values, {1, 2, 3});
    EXPECT_THAT(tensor.Transposed(1, 2).ToDoubles(), ElementsAre(1, 4, 2, 5, 3, 6))
        << DTypeName(dtype);
  }
  const Tensor mask = Tensor::FromDoubles(DType::kBool, {1.0, 0.0, 0.0, 1.0, 1.0, 1.0}, {2, 3});
  EXPECT_THAT(mask.Transposed(0, 1).ToDoubles(), ElementsAre(1, 1, 0, 1, 0, 1));
}

TEST(TensorTest, ExtentsOfOneMayHaveAnyStride) {
  const std::vector<float> values = {1, 2};
  EXPECT_TRUE(Tensor::Borrow(values.data(), {1, 2}, {17, 1}).is_row_major());
}

TEST(TensorTest, CastRounds) {
  const Tensor tensor = Tensor::FromValues<double>({1.0 + 0x1p-30, 1e9}, {2});
  EXPECT_THAT(tensor.Cast(DType::kFloat32).ToDoubles(), ElementsAre(1.0, 1e9));
  const std::vector<double> half = tensor.Cast(DType::kFloat16).ToDoubles();
  EXPECT_TRUE(std::isinf(half[1]));
}

TEST(TensorTest, ReadsMisalignedMemory) {
  std::vector<char> bytes(17);
  const double value = 2.5;
  std::memcpy(bytes.data() + 1, &value, sizeof(value));
  EXPECT_THAT(Tensor::Borrow(DType::kFloat64, bytes.data() + 1, {1}).ToDoubles(), ElementsAre(2.5));
}

TEST(TensorTest, EmptyTensorsHaveShapesAndNoElements) {
  const Tensor empty = Tensor::Zeros(DType::kFloat16, {2, 0, 3});
  EXPECT_EQ(empty.num_elements(), 0);
  EXPECT_EQ(empty.size_bytes(), 0u);
  EXPECT_EQ(empty.span_bytes(), 0u);
  EXPECT_TRUE(empty.Transposed(0, 2).is_row_major());
  EXPECT_THAT(empty.Transposed(0, 2).RowMajor().ToDoubles(), testing::IsEmpty());
  EXPECT_EQ(empty.Cast(DType::kFloat64).shape(), (Shape{2, 0, 3}));
}

TEST(TensorTest, Int32GoesToDoublesAndBack) {
  const Tensor numbers = Tensor::FromValues<std::int32_t>({-3, 7}, {2});
  EXPECT_THAT(numbers.ToDoubles(), ElementsAre(-3.0, 7.0));
  EXPECT_THAT(numbers.Cast(DType::kInt32).values<std::int32_t>(), ElementsAre(-3, 7));
}

using TensorDeathTest = testing::Test;

TEST(TensorDeathTest, ViolatedRequirementsEndTheProcess) {
  EXPECT_DEATH(Tensor::FromValues<float>({1, 2}, {3}), "as many values as elements");
  EXPECT_DEATH(Tensor::Zeros(DType::kFloat32, {2, -1}), "an extent is negative");
  EXPECT_DEATH(Tensor::Zeros(DType::kFloat32, {2}).values<double>(), "as another type");
  const float value = 0;
  EXPECT_DEATH(Tensor::Borrow(&value, {1}).mutable_values<float>(), "not its own to write");
  EXPECT_DEATH(Tensor::Borrow(&value, {1}, {-1}), "a stride is negative");
}

}  // namespace
}  // namespace theria::client
