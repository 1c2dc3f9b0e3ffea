#include "client/cpp/src/grpc_connection.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "grpcpp/test/mock_stream.h"
#include "gtest/gtest.h"
#include "theria/v1/attention_mock.grpc.pb.h"
#include "theria/v1/tensor_store_mock.grpc.pb.h"

namespace theria::client {
namespace {

using testing::_;
using testing::ElementsAre;
using testing::Return;

const grpc::Status kUnavailable(grpc::StatusCode::UNAVAILABLE, "down");

class GrpcConnectionTest : public testing::Test {
 protected:
  GrpcConnectionTest() {
    auto attention = std::make_unique<v1::MockAttentionServiceStub>();
    auto tensors = std::make_unique<v1::MockTensorServiceStub>();
    attention_ = attention.get();
    tensors_ = tensors.get();
    Stubs stubs;
    stubs.attention = std::move(attention);
    stubs.tensors = std::move(tensors);
    connection_ =
        std::make_unique<GrpcConnection>(std::move(stubs), RetryPolicy{.max_attempts = 3},
                                         RetryClock{.sleep = [this](absl::Duration) { ++waits_; }});
  }

  v1::MockAttentionServiceStub* attention_;
  v1::MockTensorServiceStub* tensors_;
  std::unique_ptr<GrpcConnection> connection_;
  int waits_ = 0;
  CallContext call_;
};

TEST_F(GrpcConnectionTest, RepeatsWhileUnavailable) {
  EXPECT_CALL(*attention_, Forward(_, _, _))
      .WillOnce(Return(kUnavailable))
      .WillOnce(Return(kUnavailable))
      .WillOnce(Return(grpc::Status::OK));
  v1::ForwardResponse response;
  EXPECT_TRUE(connection_->Forward({}, &response, call_).ok());
  EXPECT_EQ(waits_, 2);
  EXPECT_GT(call_.rpc_time, absl::ZeroDuration());
}

TEST_F(GrpcConnectionTest, ResourceExhaustionIsTheCallersToRetry) {
  EXPECT_CALL(*attention_, Vjp(_, _, _))
      .WillOnce(Return(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full")));
  v1::VjpResponse response;
  EXPECT_TRUE(absl::IsResourceExhausted(connection_->Vjp({}, &response, call_)));
  EXPECT_EQ(waits_, 0);
}

TEST_F(GrpcConnectionTest, EveryAttemptHasTheCallsDeadline) {
  call_.deadline = absl::Now() + absl::Hours(1);
  const auto expected = absl::ToChronoTime(call_.deadline);
  const auto check = [&](grpc::ClientContext* context, auto&&, auto&&) {
    // gRPC counts by another clock.
    EXPECT_LT(std::chrono::abs(context->deadline() - expected), std::chrono::minutes(1));
    return kUnavailable;
  };
  EXPECT_CALL(*attention_, Jvp(_, _, _)).Times(3).WillRepeatedly(check);
  v1::JvpResponse response;
  EXPECT_TRUE(absl::IsUnavailable(connection_->Jvp({}, &response, call_)));
}

// Takes over the messages that are written; gRPC deletes the mock.
class Writes {
 public:
  grpc::ClientWriterInterface<v1::UploadRequest>* MakeWriter(int accepted,
                                                             const grpc::Status& status) {
    auto* writer = new testing::NiceMock<grpc::testing::MockClientWriter<v1::UploadRequest>>();
    ON_CALL(*writer, Write(_, _))
        .WillByDefault([this, accepted](const v1::UploadRequest& request, auto&&) {
          if (static_cast<int>(messages.size()) == accepted) return false;
          messages.push_back(request);
          return true;
        });
    ON_CALL(*writer, WritesDone()).WillByDefault([this] { return complete = true; });
    ON_CALL(*writer, Finish()).WillByDefault(Return(status));
    return writer;
  }

  std::vector<v1::UploadRequest> messages;
  bool complete = false;
};

TEST_F(GrpcConnectionTest, UploadSendsHeaderThenChunks) {
  Writes writes;
  EXPECT_CALL(*tensors_, UploadRaw(_, _)).WillOnce([&](auto&&, v1::UploadResponse* response) {
    response->mutable_info()->set_handle("h");
    return writes.MakeWriter(100, grpc::Status::OK);
  });
  const std::size_t count = (std::size_t{5} << 20) / 2;  // two and a half MiB
  const Tensor tensor = Tensor::FromValues(std::vector<BFloat16>(count / 2, BFloat16(1.5)),
                                           {static_cast<std::int64_t>(count) / 2});
  v1::UploadHeader header;
  header.set_dtype(v1::BFLOAT16);
  v1::UploadResponse response;
  ASSERT_TRUE(connection_->Upload(header, tensor, &response, call_).ok());
  EXPECT_EQ(response.info().handle(), "h");
  EXPECT_TRUE(writes.complete);
  ASSERT_EQ(writes.messages.size(), 4u);
  EXPECT_EQ(writes.messages[0].header().dtype(), v1::BFLOAT16);
  std::string bytes;
  for (std::size_t i = 1; i < writes.messages.size(); ++i) bytes += writes.messages[i].chunk();
  EXPECT_EQ(bytes, std::string(static_cast<const char*>(tensor.data()), tensor.size_bytes()));
}

TEST_F(GrpcConnectionTest, UploadStopsWhenTheServerHasHeardEnough) {
  Writes writes;
  EXPECT_CALL(*tensors_, UploadRaw(_, _)).WillOnce([&](auto&&, v1::UploadResponse* response) {
    response->set_already_resident(true);
    return writes.MakeWriter(1, grpc::Status::OK);
  });
  v1::UploadResponse response;
  const Tensor tensor = Tensor::Zeros(DType::kFloat32, {1 << 20});
  EXPECT_TRUE(connection_->Upload({}, tensor, &response, call_).ok());
  EXPECT_TRUE(response.already_resident());
  EXPECT_FALSE(writes.complete);
}

TEST_F(GrpcConnectionTest, UploadStartsAnewWhenUnavailable) {
  Writes first;
  Writes second;
  EXPECT_CALL(*tensors_, UploadRaw(_, _))
      .WillOnce([&](auto&&, auto&&) { return first.MakeWriter(2, kUnavailable); })
      .WillOnce([&](auto&&, auto&&) { return second.MakeWriter(100, grpc::Status::OK); });
  v1::UploadResponse response;
  const Tensor tensor = Tensor::Zeros(DType::kFloat32, {1 << 20});
  EXPECT_TRUE(connection_->Upload({}, tensor, &response, call_).ok());
  EXPECT_EQ(second.messages.size(), 5u);
}

class DownloadTest : public GrpcConnectionTest {
 protected:
  // A stream of these chunks; the first message tells of two float32 elements.
  grpc::ClientReaderInterface<v1::DownloadResponse>* MakeReader(
      const std::vector<std::string>& chunks, const grpc::Status& status) {
    auto* reader = new testing::NiceMock<grpc::testing::MockClientReader<v1::DownloadResponse>>();
    ON_CALL(*reader, Read(_))
        .WillByDefault([chunks, i = std::size_t{0}](v1::DownloadResponse* response) mutable {
          if (i == chunks.size()) return false;
          response->Clear();
          if (i == 0) {
            response->mutable_info()->set_dtype(v1::FLOAT32);
            response->mutable_info()->add_shape(2);
          }
          response->set_chunk(chunks[i++]);
          return true;
        });
    ON_CALL(*reader, Finish()).WillByDefault(Return(status));
    return reader;
  }

  // The bytes of {1.0f, 2.0f}.
  const std::string bytes_ = std::string("\0\0\x80\x3f\0\0\0\x40", 8);
};

TEST_F(DownloadTest, JoinsChunks) {
  EXPECT_CALL(*tensors_, DownloadRaw(_, _))
      .WillOnce(Return(MakeReader({bytes_.substr(0, 5), bytes_.substr(5)}, grpc::Status::OK)));
  const absl::StatusOr<Tensor> tensor = connection_->Download("h", call_);
  ASSERT_TRUE(tensor.ok()) << tensor.status();
  EXPECT_THAT(tensor->values<float>(), ElementsAre(1.0f, 2.0f));
}

TEST_F(DownloadTest, StartsAnewWhenUnavailable) {
  EXPECT_CALL(*tensors_, DownloadRaw(_, _))
      .WillOnce(Return(MakeReader({bytes_.substr(0, 5)}, kUnavailable)))
      .WillOnce(Return(MakeReader({bytes_}, grpc::Status::OK)));
  EXPECT_TRUE(connection_->Download("h", call_).ok());
}

TEST_F(DownloadTest, BrokenStreamsAreInternalErrors) {
  EXPECT_CALL(*tensors_, DownloadRaw(_, _))
      .WillOnce(Return(MakeReader({bytes_ + "x"}, grpc::Status::OK)))
      .WillOnce(Return(MakeReader({bytes_.substr(1)}, grpc::Status::OK)))
      .WillOnce(Return(MakeReader({}, grpc::Status::OK)));
  EXPECT_TRUE(absl::IsInternal(connection_->Download("long", call_).status()));
  EXPECT_TRUE(absl::IsInternal(connection_->Download("short", call_).status()));
  EXPECT_TRUE(absl::IsInternal(connection_->Download("empty", call_).status()));
}

}  // namespace
}  // namespace theria::client
