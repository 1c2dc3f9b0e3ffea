#include "theria/client.h"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/cpp/src/client_impl.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cpp/missing.h"
#include "tests/unit/client/cpp/mock_connection.h"

namespace theria::client {
namespace {

using testing::_;
using testing::ElementsAre;
using testing::InSequence;
using testing::Return;

absl::Status Missing(const std::vector<std::string>& handles) {
  return MissingStatus("TENSOR_MISSING", handles);
}

class ClientTest : public testing::Test {
 protected:
  ClientTest() {
    auto connection = std::make_unique<testing::StrictMock<MockConnection>>();
    connection_ = connection.get();
    client_ = std::make_unique<Client>(
        std::make_unique<Client::Impl>(std::move(connection), absl::Seconds(30)));
  }

  // Expects an upload and answers it with `handle`.
  void ExpectUpload(const std::string& handle) {
    EXPECT_CALL(*connection_, Upload(_, _, _, _))
        .WillOnce([handle](const v1::UploadHeader& header, const Tensor&,
                           v1::UploadResponse* response, CallContext&) {
          response->mutable_info()->set_handle(handle);
          response->mutable_info()->set_dtype(header.dtype());
          *response->mutable_info()->mutable_shape() = header.shape();
          return absl::OkStatus();
        })
        .RetiresOnSaturation();
  }

  ResidentTensor Put(const std::string& handle, const PutOptions& options = {}) {
    ExpectUpload(handle);
    return client_->Put(tensor_, options).value();
  }

  // A Forward that expects these handles and answers `status`.
  void ExpectForward(const std::string& q, const std::string& k, const absl::Status& status) {
    EXPECT_CALL(*connection_, Forward(_, _, _))
        .WillOnce(
            [=](const v1::ForwardRequest& request, v1::ForwardResponse* response, CallContext&) {
              EXPECT_EQ(request.q().handle(), q);
              EXPECT_EQ(request.k().handle(), k);
              if (status.ok()) response->mutable_execution()->set_kernel("kernel");
              return status;
            })
        .RetiresOnSaturation();
  }

  // Its client finds `tensor`, put as "q1", missing, and uploads it again.
  void ExpectUploadAnew(const ResidentTensor& tensor) {
    const InSequence sequence;
    EXPECT_CALL(*connection_, Download("q1", _)).WillOnce(Return(Missing({"q1"})));
    ExpectUpload("q2");
    EXPECT_CALL(*connection_, Download("q2", _)).WillOnce(Return(tensor_));
    EXPECT_TRUE(client_->Get(tensor).ok());
    EXPECT_EQ(tensor.handle(), "q2");
  }

  const Tensor tensor_ = Tensor::FromValues<float>({1, 2, 3, 4}, {1, 1, 2, 2});
  testing::StrictMock<MockConnection>* connection_;
  std::unique_ptr<Client> client_;
};

TEST_F(ClientTest, SendsWhatIsAskedAndGivesWhatComes) {
  EXPECT_CALL(*connection_, Hvp(_, _, _))
      .WillOnce([&](const v1::HvpRequest& request, v1::HvpResponse* response, CallContext& call) {
        EXPECT_TRUE(request.has_q_dot());
        EXPECT_FALSE(request.has_k_dot());
        EXPECT_FALSE(request.has_o());
        EXPECT_TRUE(request.options().is_causal());
        EXPECT_FALSE(request.options().has_scale());
        EXPECT_EQ(request.options().window().left(), 3);
        EXPECT_FALSE(request.options().window().has_right());
        EXPECT_EQ(request.options().dropout().seed(), 5u);
        EXPECT_EQ(request.options().precision(), v1::STRICT);
        EXPECT_EQ(request.options().implementation(), v1::FUSED);
        EXPECT_EQ(request.outputs().q_bar(), v1::SKIP);
        EXPECT_EQ(request.outputs().k_bar(), v1::RESIDENT);
        EXPECT_EQ(request.outputs().v_bar(), v1::OUTPUT_MODE_UNSPECIFIED);
        EXPECT_EQ(request.outputs().resident_ttl_ms(), 1500);
        call.rpc_time = absl::Nanoseconds(1);
        *response->mutable_q_bar_dot() = request.q();
        response->mutable_k_bar()->set_handle("k_bar");
        response->mutable_k_bar()->set_dtype(v1::FLOAT32);
        response->mutable_k_bar()->add_shape(1);
        response->mutable_execution()->set_queue_seconds(0.25);
        response->mutable_execution()->set_implementation(v1::FUSED);
        return absl::OkStatus();
      });
  AttentionRequest request = {
      .q = tensor_, .k = tensor_, .v = tensor_, .o_bar = tensor_, .q_dot = tensor_};
  request.options.is_causal = true;
  request.options.window = Window{.left = 3};
  request.options.dropout = {.probability = 0.5, .seed = 5};
  request.options.implementation = Implementation::kFused;
  request.outputs.q_bar = OutputMode::kSkip;
  request.outputs.k_bar = OutputMode::kResident;
  request.outputs.resident_ttl = absl::Milliseconds(1500);
  const absl::StatusOr<AttentionResult> result = client_->Hvp(request);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(result->q_bar_dot.local().values<float>(), ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(result->k_bar.resident().handle(), "k_bar");
  EXPECT_FALSE(result->q_bar.has_value());
  EXPECT_EQ(result->execution.queue_time, absl::Milliseconds(250));
  EXPECT_EQ(result->execution.implementation, Implementation::kFused);
  EXPECT_EQ(result->execution.rpc_time, absl::Nanoseconds(1));
  EXPECT_GT(result->execution.total_time, absl::ZeroDuration());
}

TEST_F(ClientTest, RefusesInputsThatTheOperationDoesNotRead) {
  const absl::StatusOr<AttentionResult> result =
      client_->Forward({.q = tensor_, .k = tensor_, .v = tensor_, .q_dot = tensor_});
  EXPECT_TRUE(absl::IsInvalidArgument(result.status()));
  ASSERT_EQ(DetailsOf(result.status()).field_violations.size(), 1u);
  EXPECT_EQ(DetailsOf(result.status()).field_violations[0].field, "q_dot");
}

// Nothing is read from the memory that these tensors pretend to have.
TEST_F(ClientTest, RefusesMoreThanAMessageCanHold) {
  const float element = 0;
  const Tensor huge = Tensor::Borrow(&element, {1, 1, 1 << 20, 300});
  const absl::StatusOr<AttentionResult> result =
      client_->Forward({.q = huge, .k = huge, .v = tensor_});
  EXPECT_TRUE(absl::IsInvalidArgument(result.status())) << result.status();
}

TEST_F(ClientTest, DeadlineIsTheCallsOrTheClients) {
  const absl::Time start = absl::Now();
  EXPECT_CALL(*connection_, GetServerInfo(_, _, _))
      .WillOnce([&](auto&&, auto&&, CallContext& call) {
        EXPECT_GE(call.deadline, start + absl::Seconds(30));
        EXPECT_LT(call.deadline, start + absl::Seconds(60));
        return absl::OkStatus();
      })
      .WillOnce([&](auto&&, auto&&, CallContext& call) {
        EXPECT_LT(call.deadline, start + absl::Seconds(20));
        return absl::OkStatus();
      });
  EXPECT_TRUE(client_->GetServerInfo().ok());
  EXPECT_TRUE(client_->GetServerInfo({.timeout = absl::Seconds(2)}).ok());
}

TEST_F(ClientTest, ErrorsComeThroughUnchanged) {
  EXPECT_CALL(*connection_, Vjp(_, _, _)).WillOnce(Return(absl::UnimplementedError("no kernel")));
  EXPECT_EQ(client_->Vjp({.q = tensor_, .k = tensor_, .v = tensor_, .o_bar = tensor_}).status(),
            absl::UnimplementedError("no kernel"));
}

TEST_F(ClientTest, UploadsAgainWhatIsMissingAndRetriesOnce) {
  const InSequence sequence;
  const ResidentTensor q = Put("q1");
  const ResidentTensor k = Put("k1");
  ExpectForward("q1", "k1", Missing({"k1"}));
  ExpectUpload("k2");
  ExpectForward("q1", "k2", absl::OkStatus());
  ASSERT_TRUE(client_->Forward({.q = q, .k = k, .v = tensor_}).ok());
  EXPECT_EQ(k.handle(), "k2");
  EXPECT_EQ(q.handle(), "q1");

  // Copies follow: the next call uses the new handle at once.
  ExpectForward("q1", "k2", absl::OkStatus());
  EXPECT_TRUE(client_->Forward({.q = q, .k = k, .v = tensor_}).ok());
}

TEST_F(ClientTest, RetriesNoMoreThanOnce) {
  const InSequence sequence;
  const ResidentTensor q = Put("q1");
  ExpectForward("q1", "q1", Missing({"q1", "q1"}));
  ExpectUpload("q2");
  ExpectForward("q2", "q2", Missing({"q2"}));
  const absl::StatusOr<AttentionResult> result = client_->Forward({.q = q, .k = q, .v = tensor_});
  EXPECT_TRUE(absl::IsFailedPrecondition(result.status()));
  EXPECT_THAT(DetailsOf(result.status()).missing_handles, ElementsAre("q2"));
}

TEST_F(ClientTest, DoesNotRetryWhatItCannotUploadAgain) {
  const ResidentTensor q = Put("q1", {.retain_source = false});
  ExpectForward("q1", "q1", Missing({"q1"}));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(client_->Forward({.q = q, .k = q, .v = tensor_}).status()));
}

TEST_F(ClientTest, BorrowedTensorsAreNotRetainedUnlessAsked) {
  const std::vector<float> values = {1, 2};
  const Tensor borrowed = Tensor::Borrow(values.data(), {1, 1, 1, 2});
  ExpectUpload("b1");
  const ResidentTensor tensor = client_->Put(borrowed).value();
  ExpectForward("b1", "b1", Missing({"b1"}));
  EXPECT_FALSE(client_->Forward({.q = tensor, .k = tensor, .v = tensor_}).ok());

  ExpectUpload("c1");
  const ResidentTensor kept = client_->Put(borrowed, {.retain_source = true}).value();
  const InSequence sequence;
  ExpectForward("c1", "c1", Missing({"c1"}));
  ExpectUpload("c2");
  ExpectForward("c2", "c2", absl::OkStatus());
  EXPECT_TRUE(client_->Forward({.q = kept, .k = kept, .v = tensor_}).ok());
}

TEST_F(ClientTest, AFailedUploadGivesTheFirstError) {
  const ResidentTensor q = Put("q1");
  ExpectForward("q1", "q1", Missing({"q1"}));
  EXPECT_CALL(*connection_, Upload(_, _, _, _))
      .WillOnce(Return(absl::ResourceExhaustedError("full")));
  EXPECT_TRUE(
      absl::IsFailedPrecondition(client_->Forward({.q = q, .k = q, .v = tensor_}).status()));
}

TEST_F(ClientTest, MissingMasksAreUploadedAgain) {
  const ResidentTensor mask = Put("m1");
  const InSequence sequence;
  ExpectForward("", "", Missing({"m1"}));
  ExpectUpload("m2");
  EXPECT_CALL(*connection_, Forward(_, _, _))
      .WillOnce([](const v1::ForwardRequest& request, auto&&, auto&&) {
        EXPECT_EQ(request.options().mask().handle(), "m2");
        return absl::OkStatus();
      });
  EXPECT_TRUE(
      client_->Forward({.q = tensor_, .k = tensor_, .v = tensor_, .options = {.mask = mask}}).ok());
}

TEST_F(ClientTest, GetUploadsAgainToo) { ExpectUploadAnew(Put("q1")); }

// Its server may be another, or its tenant, who is not to have the elements.
TEST_F(ClientTest, OnlyTheClientThatPutItUploadsATensorAgain) {
  const ResidentTensor q = Put("q1");
  auto connection = std::make_unique<testing::StrictMock<MockConnection>>();
  testing::StrictMock<MockConnection>* other_connection = connection.get();
  Client other(std::make_unique<Client::Impl>(std::move(connection), absl::Seconds(30)));
  EXPECT_CALL(*other_connection, Download("q1", _))
      .WillOnce(Return(tensor_))
      .WillOnce(Return(Missing({"q1"})));
  EXPECT_TRUE(other.Get(q).ok());
  EXPECT_THAT(DetailsOf(other.Get(q).status()).missing_handles, ElementsAre("q1"));
  EXPECT_EQ(q.handle(), "q1");

  ExpectUploadAnew(q);
}

TEST_F(ClientTest, DeleteForgetsTheSource) {
  const ResidentTensor q = Put("q1");
  EXPECT_CALL(*connection_, Delete(_, _, _)).WillOnce(Return(absl::OkStatus()));
  EXPECT_TRUE(client_->Delete(q).ok());
  ExpectForward("q1", "q1", Missing({"q1"}));
  EXPECT_FALSE(client_->Forward({.q = q, .k = q, .v = tensor_}).ok());
}

TEST_F(ClientTest, DeleteOfWhatIsGoneForgetsTheSourceToo) {
  const ResidentTensor q = Put("q1");
  EXPECT_CALL(*connection_, Delete(_, _, _)).WillOnce(Return(Missing({"q1"})));
  EXPECT_THAT(DetailsOf(client_->Delete(q)).missing_handles, ElementsAre("q1"));
  EXPECT_CALL(*connection_, Download("q1", _)).WillOnce(Return(Missing({"q1"})));
  EXPECT_FALSE(client_->Get(q).ok());
}

TEST_F(ClientTest, TheSourceStaysWhereNobodyKnowsWhetherTheTensorIsDeleted) {
  const ResidentTensor q = Put("q1");
  EXPECT_CALL(*connection_, Delete(_, _, _)).WillOnce(Return(absl::UnavailableError("no answer")));
  EXPECT_TRUE(absl::IsUnavailable(client_->Delete(q)));
  ExpectUploadAnew(q);
}

// A server that knows no such tensor of that tenant says so of another tenant's.
TEST_F(ClientTest, TheSourceStaysWhereAnothersClientIsRefusedTheDeletion) {
  const ResidentTensor q = Put("q1");
  auto connection = std::make_unique<testing::StrictMock<MockConnection>>();
  EXPECT_CALL(*connection, Delete(_, _, _)).WillOnce(Return(Missing({"q1"})));
  Client other(std::make_unique<Client::Impl>(std::move(connection), absl::Seconds(30)));
  EXPECT_TRUE(absl::IsFailedPrecondition(other.Delete(q)));
  ExpectUploadAnew(q);
}

TEST_F(ClientTest, AnotherClientOfTheTenantDeletesForAll) {
  const ResidentTensor q = Put("q1");
  auto connection = std::make_unique<testing::StrictMock<MockConnection>>();
  EXPECT_CALL(*connection, Delete(_, _, _)).WillOnce(Return(absl::OkStatus()));
  Client other(std::make_unique<Client::Impl>(std::move(connection), absl::Seconds(30)));
  EXPECT_TRUE(other.Delete(q).ok());
  EXPECT_CALL(*connection_, Download("q1", _)).WillOnce(Return(Missing({"q1"})));
  EXPECT_FALSE(client_->Get(q).ok());
}

// The call misses the tensor while its deletion is under way: it must not come back.
TEST_F(ClientTest, WhatIsBeingDeletedIsNotUploadedAgain) {
  const ResidentTensor q = Put("q1");
  absl::Notification is_missed;
  EXPECT_CALL(*connection_, Download("q1", _)).WillOnce([&](auto&&, auto&&) {
    is_missed.Notify();
    return Missing({"q1"});
  });
  std::thread reader;
  EXPECT_CALL(*connection_, Delete(_, _, _)).WillOnce([&](auto&&...) {
    reader = std::thread([&] { EXPECT_FALSE(client_->Get(q).ok()); });
    is_missed.WaitForNotification();
    return absl::OkStatus();
  });
  EXPECT_TRUE(client_->Delete(q).ok());
  reader.join();
}

TEST_F(ClientTest, PutPacksAndAddressesContent) {
  EXPECT_CALL(*connection_, Upload(_, _, _, _))
      .WillOnce([](const v1::UploadHeader& header, const Tensor& tensor,
                   v1::UploadResponse* response, CallContext&) {
        EXPECT_TRUE(tensor.is_row_major());
        EXPECT_THAT(tensor.values<float>(), ElementsAre(1, 3, 2, 4));
        EXPECT_EQ(header.sha256().size(), 32u);
        EXPECT_EQ(header.ttl_ms(), 5000);
        EXPECT_EQ(header.pin_ms(), 1);
        response->mutable_info()->set_dtype(v1::FLOAT32);
        return absl::OkStatus();
      });
  EXPECT_TRUE(
      client_
          ->Put(tensor_.Transposed(2, 3),
                {.ttl = absl::Seconds(5), .pin = absl::Microseconds(10), .content_addressed = true})
          .ok());
}

TEST_F(ClientTest, ListFollowsPages) {
  const InSequence sequence;
  EXPECT_CALL(*connection_, List(_, _, _))
      .WillOnce([](const v1::ListRequest& request, v1::ListResponse* response, auto&&) {
        EXPECT_EQ(request.page_token(), "");
        v1::TensorInfo* info = response->add_tensors();
        info->set_handle("a");
        info->set_dtype(v1::BOOL);
        response->set_next_page_token("next");
        return absl::OkStatus();
      })
      .WillOnce([](const v1::ListRequest& request, v1::ListResponse* response, auto&&) {
        EXPECT_EQ(request.page_token(), "next");
        v1::TensorInfo* info = response->add_tensors();
        info->set_handle("b");
        info->set_dtype(v1::FLOAT16);
        return absl::OkStatus();
      });
  const absl::StatusOr<std::vector<TensorInfo>> tensors = client_->List();
  ASSERT_TRUE(tensors.ok()) << tensors.status();
  ASSERT_EQ(tensors->size(), 2u);
  EXPECT_EQ((*tensors)[1].handle, "b");
  EXPECT_EQ((*tensors)[1].dtype, DType::kFloat16);
}

TEST_F(ClientTest, ServerInfoIsConverted) {
  EXPECT_CALL(*connection_, GetServerInfo(_, _, _))
      .WillOnce([](auto&&, v1::GetServerInfoResponse* response, auto&&) {
        response->set_version("0.1.0");
        v1::KernelSupport* kernel = response->add_kernels();
        kernel->set_operation(v1::JVP);
        kernel->set_implementation(v1::UNFUSED);
        kernel->set_dtype(v1::BFLOAT16);
        kernel->set_min_head_dim(8);
        kernel->set_max_head_dim(128);
        kernel->set_head_dim_multiple(8);
        response->mutable_limits()->set_max_pin_ms(60000);
        response->set_uptime_seconds(1.5);
        return absl::OkStatus();
      });
  const absl::StatusOr<ServerInfo> info = client_->GetServerInfo();
  ASSERT_TRUE(info.ok()) << info.status();
  ASSERT_EQ(info->kernels.size(), 1u);
  EXPECT_EQ(info->kernels[0].operation, Operation::kJvp);
  EXPECT_EQ(info->kernels[0].implementation, Implementation::kUnfused);
  EXPECT_TRUE(info->kernels[0].Covers(64));
  EXPECT_FALSE(info->kernels[0].Covers(65));
  EXPECT_FALSE(info->kernels[0].Covers(4));
  EXPECT_EQ(info->limits.max_pin, absl::Minutes(1));
  EXPECT_EQ(info->uptime, absl::Milliseconds(1500));
}

}  // namespace
}  // namespace theria::client
