#include "client/cpp/src/download_codec.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "grpcpp/support/slice.h"
#include "gtest/gtest.h"
#include "theria/v1/tensor_store.pb.h"

namespace theria::client {
namespace {

v1::DownloadResponse First(const std::string& chunk) {
  v1::DownloadResponse message;
  message.mutable_info()->set_dtype(v1::FLOAT32);
  message.mutable_info()->add_shape(2);
  message.set_chunk(chunk);
  return message;
}

// The bytes in slices of `slice_bytes`.
absl::Status Read(const std::string& bytes, std::size_t slice_bytes,
                  std::optional<TensorBuilder>& builder) {
  std::vector<grpc::Slice> slices;
  for (std::size_t i = 0; i < bytes.size(); i += slice_bytes) {
    slices.emplace_back(bytes.substr(i, slice_bytes));
  }
  grpc::ByteBuffer message(slices.data(), slices.size());
  return ReadDownloadResponse(message, builder);
}

TEST(DownloadCodecTest, ReadsWhereverTheTransportCuts) {
  const std::string bytes = First("12345678").SerializeAsString();
  for (std::size_t slice_bytes = 1; slice_bytes <= bytes.size(); ++slice_bytes) {
    std::optional<TensorBuilder> builder;
    const absl::Status status = Read(bytes, slice_bytes, builder);
    ASSERT_TRUE(status.ok()) << status;
    const absl::StatusOr<Tensor> tensor = std::move(*builder).Finish();
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    EXPECT_EQ(std::string(static_cast<const char*>(tensor->data()), 8), "12345678");
  }
}

TEST(DownloadCodecTest, SkipsUnknownFields) {
  std::optional<TensorBuilder> builder;
  const std::string unknown = "\x7a\x03xyz";  // field 15, three bytes
  EXPECT_TRUE(Read(unknown + First("12345678").SerializeAsString() + unknown, 7, builder).ok());
  EXPECT_TRUE(std::move(*builder).Finish().ok());
}

TEST(DownloadCodecTest, EveryCutMessageIsAnError) {
  const std::string bytes = First("12345678").SerializeAsString();
  for (std::size_t length = 1; length < bytes.size(); ++length) {
    std::optional<TensorBuilder> builder;
    const absl::Status status = Read(bytes.substr(0, length), 100, builder);
    // A message may end where a field does.
    const bool complete = builder.has_value() && !std::move(*builder).Finish().ok() && status.ok();
    EXPECT_TRUE(absl::IsInternal(status) || complete) << length;
  }
}

TEST(DownloadCodecTest, WhatBreaksTheContractIsInternal) {
  std::optional<TensorBuilder> builder;
  v1::DownloadResponse chunk;
  chunk.set_chunk("1234");
  EXPECT_TRUE(absl::IsInternal(Read(chunk.SerializeAsString(), 100, builder)));  // no info yet
  EXPECT_TRUE(absl::IsInternal(Read("\x0a\xff\xff\xff\xff\x0f", 100, builder)));
  EXPECT_TRUE(absl::IsInternal(Read("\xff\xff", 100, builder)));
  EXPECT_FALSE(builder.has_value());
  ASSERT_TRUE(Read(First("1234").SerializeAsString(), 100, builder).ok());
  EXPECT_TRUE(absl::IsInternal(Read(First("1234").SerializeAsString(), 100, builder)));  // again
  chunk.set_chunk("12345");
  EXPECT_TRUE(absl::IsInternal(Read(chunk.SerializeAsString(), 100, builder)));  // too many bytes
}

}  // namespace
}  // namespace theria::client
