#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "client/cpp/src/client_impl.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cpp/missing.h"
#include "tests/unit/client/cpp/mock_connection.h"
#include "theria/client.h"

// Calls with shared memory over a connection that is none: what goes into the messages, and what
// becomes of the room when calls fail. tests/integration/cpp has the same with a server.

namespace theria::client {
namespace {

using testing::_;
using testing::ElementsAre;
using testing::InSequence;
using testing::Return;

absl::Status Missing(const std::string& field) { return MissingStatus("REGION_MISSING", {field}); }

constexpr std::size_t kBytes = 4096;

class SharedMemoryTest : public testing::Test {
 protected:
  SharedMemoryTest() {
    auto connection = std::make_unique<testing::StrictMock<MockConnection>>();
    connection_ = connection.get();
    auto impl = std::make_unique<Client::Impl>(std::move(connection), absl::Seconds(30));
    impl_ = impl.get();
    client_ = std::make_unique<Client>(std::move(impl));
  }

  // A region as if the client had it from a server.
  SharedRegion Region(const std::string& name) {
    const int descriptor = memfd_create(name.c_str(), MFD_CLOEXEC);
    EXPECT_EQ(ftruncate(descriptor, kBytes), 0);
    SharedRegion region(SharedRegion::State::Map(name, descriptor, kBytes).value());
    close(descriptor);
    impl_->regions().Add(region);
    return region;
  }

  // Fills what a forward asks to be shared with ones, as a server does.
  static void Answer(const SharedRegion& region, const v1::ForwardRequest& request,
                     v1::ForwardResponse* response) {
    const v1::SharedMemoryRef& part = request.outputs().shared_memory();
    const auto place = [&](std::uint64_t offset_bytes, const Shape& shape, v1::Tensor* tensor) {
      tensor->set_dtype(v1::FLOAT32);
      tensor->mutable_shape()->Add(shape.begin(), shape.end());
      tensor->mutable_shared_memory()->set_offset_bytes(offset_bytes);
      const auto count = static_cast<std::size_t>(NumElements(shape));
      tensor->mutable_shared_memory()->set_size_bytes(count * sizeof(float));
      const std::vector<float> ones(count, 1.0f);
      std::memcpy(region.state()->data() + offset_bytes, ones.data(), count * sizeof(float));
    };
    place(part.offset_bytes(), {1, 1, 2, 2}, response->mutable_o());
    place(part.offset_bytes() + 256, {1, 1, 2}, response->mutable_lse());
  }

  AttentionRequest Request(const AnyTensor& q) const {
    return {.q = q, .k = tensor_, .v = tensor_};
  }

  const Tensor tensor_ = Tensor::FromValues<float>({1, 2, 3, 4}, {1, 1, 2, 2});
  testing::StrictMock<MockConnection>* connection_;
  Client::Impl* impl_;
  std::unique_ptr<Client> client_;
};

TEST_F(SharedMemoryTest, RoomComesBackWithTheLastView) {
  const SharedRegion region = Region("r");
  Tensor whole = region.NewTensor(DType::kFloat32, {32, 32}).value();
  whole.mutable_values<float>()[0] = 7.0f;
  Tensor view = whole.Transposed(0, 1);
  whole = Tensor();
  EXPECT_TRUE(absl::IsResourceExhausted(region.NewTensor(DType::kBool, {1}).status()));
  EXPECT_EQ(view.ToDoubles()[0], 7.0);
  view = Tensor();
  EXPECT_TRUE(region.NewTensor(DType::kBool, {kBytes}).ok());
  EXPECT_TRUE(absl::IsResourceExhausted(region.NewTensor(DType::kBool, {kBytes + 1}).status()));
  EXPECT_TRUE(
      absl::IsResourceExhausted(region.NewTensor(DType::kFloat64, {1L << 40, 1L << 40}).status()));
}

TEST_F(SharedMemoryTest, TensorsOutliveTheirRegion) {
  const Tensor tensor = Region("r").Copy(tensor_).value();
  EXPECT_THAT(tensor.values<float>(), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Region("s").Copy(tensor_.Transposed(2, 3))->values<float>(), ElementsAre(1, 3, 2, 4));
}

TEST_F(SharedMemoryTest, InputsGoByNameWithTheirStrides) {
  const SharedRegion region = Region("r");
  const Tensor before = region.Copy(tensor_).value();
  const Tensor q = region.Copy(tensor_).value();
  const Tensor sparse =
      Tensor::Adopt(region.state(), DType::kFloat32, q.data(), {1, 1, 2, 2}, {0, 0, 100, 1});
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .WillOnce([](const v1::ForwardRequest& request, auto&&, auto&&) {
        EXPECT_EQ(request.q().shared_memory().region(), "r");
        EXPECT_EQ(request.q().shared_memory().offset_bytes(), 256u);
        EXPECT_EQ(request.q().shared_memory().size_bytes(), 16u);
        EXPECT_THAT(request.q().strides(), ElementsAre(4, 4, 1, 2));
        EXPECT_THAT(request.k().strides(), ElementsAre(0, 0, 100, 1));
        EXPECT_EQ(request.k().shared_memory().size_bytes(), 408u);
        EXPECT_EQ(request.v().data().size(), 8u);  // begins at no multiple of 256
        EXPECT_EQ(request.options().mask().shared_memory().offset_bytes(), 0u);
        EXPECT_FALSE(request.outputs().has_shared_memory());
        return absl::OkStatus();
      });
  const Tensor second_row =
      Tensor::Adopt(region.state(), DType::kFloat32, q.values<float>().data() + 2, {1, 1, 1, 2});
  EXPECT_TRUE(
      client_
          ->Forward(
              {.q = q.Transposed(2, 3), .k = sparse, .v = second_row, .options = {.mask = before}})
          .ok());
}

TEST_F(SharedMemoryTest, OutputsAreMadeInTheRegion) {
  const SharedRegion region = Region("r");
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .WillOnce([&](const v1::ForwardRequest& request, v1::ForwardResponse* response, auto&&) {
        EXPECT_EQ(request.outputs().o(), v1::SHARED);
        EXPECT_EQ(request.outputs().lse(), v1::SHARED);
        EXPECT_EQ(request.outputs().q_bar(), v1::OUTPUT_MODE_UNSPECIFIED);
        EXPECT_EQ(request.outputs().shared_memory().region(), "r");
        EXPECT_EQ(request.outputs().shared_memory().size_bytes(), 512u);
        Answer(region, request, response);
        return absl::OkStatus();
      });
  AttentionRequest request = Request(tensor_);
  request.outputs.region = region;
  absl::StatusOr<AttentionResult> result = client_->Forward(request);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->o.local().values<float>(), ElementsAre(1, 1, 1, 1));
  EXPECT_EQ(result->lse.local().data(), region.state()->data() + 256);
  result->o = AnyTensor();
  EXPECT_FALSE(region.NewTensor(DType::kBool, {kBytes}).ok());
  result->lse = AnyTensor();
  EXPECT_TRUE(region.NewTensor(DType::kBool, {kBytes}).ok());
}

TEST_F(SharedMemoryTest, OutputsWithoutRoomAreRefusedByName) {
  const SharedRegion region = Region("r");
  const Tensor filled = region.NewTensor(DType::kBool, {kBytes - 256}).value();
  AttentionRequest request = Request(tensor_);
  request.outputs.region = region;
  const absl::Status status = client_->Forward(request).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("outputs.region"));
}

TEST_F(SharedMemoryTest, OutputsElsewhereBreakTheContract) {
  const SharedRegion region = Region("r");
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .WillOnce([&](const v1::ForwardRequest& request, v1::ForwardResponse* response, auto&&) {
        Answer(region, request, response);
        response->mutable_o()->mutable_shared_memory()->set_offset_bytes(512);
        return absl::OkStatus();
      });
  AttentionRequest request = Request(tensor_);
  request.outputs.region = region;
  EXPECT_TRUE(absl::IsInternal(client_->Forward(request).status()));
}

// The first attempt may still be running on the server.
TEST_F(SharedMemoryTest, ARetryHasRoomOfItsOwn) {
  const SharedRegion region = Region("r");
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .WillOnce(
          [&](const v1::ForwardRequest& request, v1::ForwardResponse* response, CallContext& call) {
            EXPECT_EQ(request.outputs().shared_memory().offset_bytes(), 0u);
            EXPECT_TRUE(call.before_retry().ok());
            EXPECT_EQ(request.outputs().shared_memory().offset_bytes(), 512u);
            Answer(region, request, response);
            return absl::OkStatus();
          });
  AttentionRequest request = Request(tensor_);
  request.outputs.region = region;
  const absl::StatusOr<AttentionResult> result = client_->Forward(request);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->o.local().data(), region.state()->data() + 512);
  EXPECT_NE(region.NewTensor(DType::kBool, {1})->data(), region.state()->data());
}

TEST_F(SharedMemoryTest, RoomOfUnansweredCallsIsNotUsedAgain) {
  for (const auto& [status, is_free] :
       std::vector<std::pair<absl::Status, bool>>{{absl::DeadlineExceededError(""), false},
                                                  {absl::CancelledError(""), false},
                                                  {absl::UnavailableError(""), false},
                                                  {absl::InternalError(""), false},
                                                  {absl::InvalidArgumentError(""), true},
                                                  {absl::ResourceExhaustedError(""), true}}) {
    const SharedRegion region = Region("r");
    EXPECT_CALL(*connection_, Forward(_, _, _)).WillOnce(Return(status));
    AttentionRequest request = Request(tensor_);
    request.outputs.region = region;
    EXPECT_EQ(client_->Forward(request).status(), status);
    EXPECT_EQ(region.NewTensor(DType::kBool, {kBytes}).ok(), is_free) << status;
  }
}

TEST_F(SharedMemoryTest, WithoutItsRegionACallGoesByMessagesAndOthersKeepTheirs) {
  const SharedRegion lost = Region("lost");
  const SharedRegion kept = Region("kept");
  AttentionRequest request = Request(lost.Copy(tensor_).value());
  request.k = kept.Copy(tensor_).value();
  request.outputs.region = lost;
  const InSequence sequence;
  EXPECT_CALL(*connection_, Forward(_, _, _)).WillOnce(Return(Missing("q.shared_memory")));
  EXPECT_CALL(*connection_, RenewRegion(_, _, _))
      .Times(2)
      .WillRepeatedly([](const v1::RenewRegionRequest& renew, auto&&, auto&&) {
        return renew.name() == "lost" ? Missing("name") : absl::OkStatus();
      });
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .Times(2)
      .WillRepeatedly([](const v1::ForwardRequest& message, auto&&, auto&&) {
        EXPECT_EQ(message.q().data().size(), 16u);
        EXPECT_EQ(message.k().shared_memory().region(), "kept");
        EXPECT_EQ(message.outputs().o(), v1::OUTPUT_MODE_UNSPECIFIED);
        EXPECT_FALSE(message.outputs().has_shared_memory());
        return absl::OkStatus();
      });
  EXPECT_TRUE(client_->Forward(request).ok());
  EXPECT_TRUE(client_->Forward(request).ok());  // without asking again
}

TEST_F(SharedMemoryTest, OfAServerThatSharesNothingAnyMoreRegionsAreLost) {
  const SharedRegion region = Region("r");
  const absl::Status shares_none = absl::UnimplementedError("shares no memory");
  const InSequence sequence;
  EXPECT_CALL(*connection_, Forward(_, _, _)).WillOnce(Return(shares_none));
  EXPECT_CALL(*connection_, RenewRegion(_, _, _)).WillOnce(Return(shares_none));
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .WillOnce([](const v1::ForwardRequest& message, auto&&, auto&&) {
        EXPECT_EQ(message.q().data().size(), 16u);
        return absl::OkStatus();
      });
  EXPECT_TRUE(client_->Forward(Request(region.Copy(tensor_).value())).ok());
  EXPECT_FALSE(region.is_shared());
  EXPECT_CALL(*connection_, DeleteRegion(_, _, _)).WillOnce(Return(shares_none));
  const absl::Status gone = client_->Unshare(region);
  EXPECT_TRUE(absl::IsFailedPrecondition(gone)) << gone;
  EXPECT_THAT(DetailsOf(gone).missing_regions, ElementsAre("name"));
  EXPECT_THAT(std::string(gone.message()), testing::HasSubstr("shares no memory"));
}

TEST_F(SharedMemoryTest, WhatHasNoKernelKeepsItsRegions) {
  const SharedRegion region = Region("r");
  EXPECT_CALL(*connection_, Forward(_, _, _)).WillOnce(Return(absl::UnimplementedError("rank")));
  EXPECT_CALL(*connection_, RenewRegion(_, _, _)).WillOnce(Return(absl::OkStatus()));
  const absl::Status status = client_->Forward(Request(region.Copy(tensor_).value())).status();
  EXPECT_EQ(status, absl::UnimplementedError("rank"));
  EXPECT_TRUE(region.is_shared());
}

// Another thread has found out meanwhile.
TEST_F(SharedMemoryTest, ACallInTheMidstOfWhichARegionIsLostGoesByMessages) {
  const SharedRegion region = Region("r");
  const InSequence sequence;
  EXPECT_CALL(*connection_, Forward(_, _, _)).WillOnce([&](auto&&...) {
    region.state()->SetLost();
    return absl::UnimplementedError("shares no memory");
  });
  EXPECT_CALL(*connection_, RenewRegion(_, _, _)).Times(0);
  EXPECT_CALL(*connection_, Forward(_, _, _)).WillOnce(Return(absl::OkStatus()));
  EXPECT_TRUE(client_->Forward(Request(region.Copy(tensor_).value())).ok());
}

TEST_F(SharedMemoryTest, ARegionMissedTwiceIsAnError) {
  const SharedRegion region = Region("r");
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .Times(2)
      .WillRepeatedly(Return(Missing("q.shared_memory")));
  EXPECT_CALL(*connection_, RenewRegion(_, _, _)).WillOnce(Return(absl::OkStatus()));
  const absl::Status status = client_->Forward(Request(region.Copy(tensor_).value())).status();
  EXPECT_THAT(DetailsOf(status).missing_regions, ElementsAre("q.shared_memory"));
  EXPECT_THAT(DetailsOf(status).missing_handles, testing::IsEmpty());
}

TEST_F(SharedMemoryTest, PutNamesThePartAndDoesNotKeepItsRoom) {
  const SharedRegion region = Region("r");
  EXPECT_CALL(*connection_, Upload(_, _, _, _))
      .WillOnce([](const v1::UploadHeader& header, auto&&, v1::UploadResponse* response, auto&&) {
        EXPECT_EQ(header.shared_memory().size_bytes(), 16u);
        response->mutable_info()->set_dtype(header.dtype());
        return absl::OkStatus();
      })
      .WillOnce([](const v1::UploadHeader& header, auto&&, v1::UploadResponse* response, auto&&) {
        EXPECT_FALSE(header.has_shared_memory());
        EXPECT_EQ(header.sha256().size(), 32u);
        response->mutable_info()->set_dtype(header.dtype());
        return absl::OkStatus();
      });
  const auto resident = client_->Put(region.Copy(tensor_).value());
  ASSERT_TRUE(resident.ok()) << resident.status();
  EXPECT_TRUE(region.NewTensor(DType::kBool, {kBytes}).ok());
  EXPECT_TRUE(client_->Put(region.Copy(tensor_).value(), {.content_addressed = true}).ok());
}

TEST_F(SharedMemoryTest, TheSocketOfAnotherHostIsUnavailable) {
  const InSequence sequence;
  EXPECT_CALL(*connection_, CreateRegion(_, _, _))
      .WillOnce([](const v1::CreateRegionRequest& request, v1::RegionInfo* info, auto&&) {
        EXPECT_EQ(request.size_bytes(), 1024u);  // room for aligned tensors
        EXPECT_EQ(request.ttl_ms(), 2000);
        info->set_name("n");
        info->set_size_bytes(request.size_bytes());
        info->set_socket("/nonexistent/memory");
        return absl::OkStatus();
      });
  EXPECT_CALL(*connection_, DeleteRegion(_, _, _))
      .WillOnce([](const v1::DeleteRegionRequest& request, auto&&, auto&&) {
        EXPECT_EQ(request.name(), "n");
        return absl::OkStatus();
      });
  const absl::Status status = client_->Share(1000, absl::Seconds(2)).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("/nonexistent/memory"));
}

// Touching what is beyond the end of a file would kill the process.
TEST_F(SharedMemoryTest, AFileOfAnotherSizeIsNotMapped) {
  const int descriptor = memfd_create("small", MFD_CLOEXEC);
  ASSERT_EQ(ftruncate(descriptor, kBytes), 0);
  EXPECT_TRUE(absl::IsInternal(SharedRegion::State::Map("small", descriptor, 2 * kBytes).status()));
  close(descriptor);
}

}  // namespace
}  // namespace theria::client
