#include "client/cpp/src/message_codec.h"

#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace theria::client {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(EncodeTensorTest, RowMajorHasNoStrides) {
  v1::Tensor message;
  EncodeTensor(Tensor::FromValues<float>({1, 2, 3, 4}, {2, 2}), &message);
  EXPECT_EQ(message.dtype(), v1::FLOAT32);
  EXPECT_THAT(message.shape(), ElementsAre(2, 2));
  EXPECT_THAT(message.strides(), IsEmpty());
  EXPECT_EQ(message.data().size(), 16u);
}

TEST(EncodeTensorTest, ViewsGoWithStridesAndNoCopyOfRepeatedElements) {
  const Tensor tensor = Tensor::FromValues<double>({1, 2, 3, 4, 5, 6}, {2, 3});
  v1::Tensor transposed;
  EncodeTensor(tensor.Transposed(0, 1), &transposed);
  EXPECT_THAT(transposed.strides(), ElementsAre(1, 3));
  EXPECT_EQ(transposed.data().size(), 48u);

  v1::Tensor broadcast;
  EncodeTensor(tensor.BroadcastTo({100, 2, 3}), &broadcast);
  EXPECT_THAT(broadcast.strides(), ElementsAre(0, 3, 1));
  EXPECT_EQ(broadcast.data().size(), 48u);
}

TEST(EncodeTensorTest, SparseViewsArePacked) {
  const std::vector<float> values(1000, 3.0f);
  v1::Tensor message;
  EncodeTensor(Tensor::Borrow(values.data(), {2, 2}, {500, 1}), &message);
  EXPECT_THAT(message.strides(), IsEmpty());
  EXPECT_EQ(message.data().size(), 16u);
}

TEST(DecodeTensorTest, TakesElementsAndChecksTheirSize) {
  v1::Tensor message;
  EncodeTensor(Tensor::FromValues<float>({1, 2, 3, 4}, {2, 2}), &message);
  const absl::StatusOr<AnyTensor> tensor = DecodeTensor(&message);
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_TRUE(tensor->local().owns_elements());
  EXPECT_THAT(tensor->local().values<float>(), ElementsAre(1, 2, 3, 4));
}

TEST(DecodeTensorTest, BrokenMessagesAreInternalErrors) {
  v1::Tensor good;
  EncodeTensor(Tensor::FromValues<float>({1, 2, 3, 4}, {2, 2}), &good);
  v1::Tensor short_data = good;
  short_data.mutable_data()->pop_back();
  EXPECT_TRUE(absl::IsInternal(DecodeTensor(&short_data).status()));
  v1::Tensor negative = good;
  negative.set_shape(0, -2);
  EXPECT_TRUE(absl::IsInternal(DecodeTensor(&negative).status()));
  v1::Tensor overflowing = good;
  overflowing.set_shape(0, int64_t{1} << 62);
  EXPECT_TRUE(absl::IsInternal(DecodeTensor(&overflowing).status()));
  v1::Tensor unknown = good;
  unknown.set_dtype(static_cast<v1::DType>(77));
  EXPECT_TRUE(absl::IsInternal(DecodeTensor(&unknown).status()));
}

TEST(DecodeTensorTest, AbsentAndResident) {
  v1::Tensor absent;
  EXPECT_FALSE(DecodeTensor(&absent)->has_value());
  v1::Tensor resident;
  resident.set_dtype(v1::BFLOAT16);
  resident.add_shape(3);
  resident.set_handle("h");
  const absl::StatusOr<AnyTensor> tensor = DecodeTensor(&resident);
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_EQ(tensor->resident().handle(), "h");
  EXPECT_EQ(tensor->resident().dtype(), DType::kBFloat16);
  EXPECT_EQ(tensor->resident().shape(), Shape{3});
}

TEST(ToMillisecondsTest, RoundsUp) {
  EXPECT_EQ(ToMilliseconds(absl::ZeroDuration()), 0);
  EXPECT_EQ(ToMilliseconds(absl::Microseconds(1)), 1);
  EXPECT_EQ(ToMilliseconds(absl::Seconds(2)), 2000);
}

class TensorBuilderTest : public testing::Test {
 protected:
  TensorBuilderTest() {
    info_.set_dtype(v1::FLOAT64);
    info_.add_shape(2);
  }
  v1::TensorInfo info_;
  std::optional<TensorBuilder> builder_;
};

TEST_F(TensorBuilderTest, JoinsChunks) {
  const double values[] = {1.5, -2.5};
  const std::string bytes(reinterpret_cast<const char*>(values), sizeof(values));
  ASSERT_TRUE(TensorBuilder::Begin(info_, builder_).ok());
  ASSERT_TRUE(builder_->Append(bytes.substr(0, 3)).ok());
  ASSERT_TRUE(builder_->Append(bytes.substr(3)).ok());
  const absl::StatusOr<Tensor> tensor = std::move(*builder_).Finish();
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_THAT(tensor->values<double>(), ElementsAre(1.5, -2.5));
}

TEST_F(TensorBuilderTest, RefusesTooManyAndTooFewBytes) {
  ASSERT_TRUE(TensorBuilder::Begin(info_, builder_).ok());
  EXPECT_TRUE(absl::IsInternal(builder_->Append(std::string(17, 'x'))));
  EXPECT_TRUE(builder_->Append(std::string(15, 'x')).ok());
  EXPECT_TRUE(absl::IsInternal(builder_->Append("xx")));
  EXPECT_TRUE(absl::IsInternal(TensorBuilder::Begin(info_, builder_)));
  EXPECT_TRUE(absl::IsInternal(std::move(*builder_).Finish().status()));
}

}  // namespace
}  // namespace theria::client
