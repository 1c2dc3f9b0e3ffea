#include "client/cpp/src/payload.h"

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "theria/v1/attention.pb.h"

namespace theria::client {
namespace {

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  std::string bytes;
  for (const grpc::Slice& slice : slices) bytes.append(slice.begin(), slice.end());
  return bytes;
}

TEST(ElementSliceTest, OwnedElementsStayWhereTheyAreUntilTheSliceGoes) {
  auto storage = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  const std::weak_ptr<std::vector<float>> alive = storage;
  std::optional<grpc::Slice> slice;
  {
    const void* const data = storage->data();
    const Tensor tensor = Tensor::Adopt(std::move(storage), DType::kFloat32, data, {4});
    slice = ElementSlice(tensor, 4, 8);
    EXPECT_EQ(static_cast<const void*>(slice->begin()), static_cast<const char*>(data) + 4);
    EXPECT_EQ(slice->size(), 8u);
  }
  const grpc::Slice copy = *slice;
  slice.reset();
  EXPECT_FALSE(alive.expired());
  float values[2];
  std::memcpy(values, copy.begin(), sizeof(values));
  EXPECT_EQ(values[0], 2.0f);
  EXPECT_EQ(values[1], 3.0f);
}

TEST(ElementSliceTest, TheLastSliceFreesOwnedElements) {
  auto storage = std::make_shared<std::vector<float>>(1024);
  const std::weak_ptr<std::vector<float>> alive = storage;
  const void* const data = storage->data();
  Tensor tensor = Tensor::Adopt(std::move(storage), DType::kFloat32, data, {1024});
  {
    const grpc::Slice slice = ElementSlice(tensor, 0, tensor.size_bytes());
    tensor = Tensor();
    EXPECT_FALSE(alive.expired());
  }
  EXPECT_TRUE(alive.expired());
}

TEST(ElementSliceTest, BorrowedElementsAreCopied) {
  std::vector<float> values(1024, 1.0f);
  const Tensor tensor = Tensor::Borrow(values.data(), {1024});
  const grpc::Slice slice = ElementSlice(tensor, 0, tensor.size_bytes());
  EXPECT_NE(static_cast<const void*>(slice.begin()), tensor.data());
  const std::string before(slice.begin(), slice.end());
  values.assign(1024, 2.0f);
  EXPECT_EQ(std::string(slice.begin(), slice.end()), before);
}

TEST(EncodeMessageTest, PayloadsMergeIntoTheirFields) {
  v1::ForwardRequest message;
  message.mutable_q()->set_dtype(v1::FLOAT16);
  message.mutable_q()->add_shape(100);
  message.mutable_options()->set_is_causal(true);
  message.mutable_options()->mutable_mask()->set_dtype(v1::BOOL);
  v1::ForwardRequest expected = message;
  expected.mutable_q()->set_data(std::string(200, 'q'));
  expected.mutable_options()->mutable_mask()->set_data(std::string(70000, 'm'));
  const std::vector<Payload> payloads = {
      {{v1::ForwardRequest::kQFieldNumber, v1::Tensor::kDataFieldNumber},
       grpc::Slice(std::string(200, 'q'))},
      {{v1::ForwardRequest::kOptionsFieldNumber, v1::AttentionOptions::kMaskFieldNumber,
        v1::Tensor::kDataFieldNumber},
       grpc::Slice(std::string(70000, 'm'))}};
  v1::ForwardRequest received;
  ASSERT_TRUE(received.ParseFromString(BytesOf(EncodeMessage(message, payloads))));
  EXPECT_EQ(received.SerializeAsString(), expected.SerializeAsString());
}

TEST(EncodeMessageTest, WithoutPayloadsIsTheMessage) {
  v1::Tensor message;
  message.set_handle("h");
  EXPECT_EQ(BytesOf(EncodeMessage(message)), message.SerializeAsString());
}

}  // namespace
}  // namespace theria::client
