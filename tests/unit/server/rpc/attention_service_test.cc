#include "server/rpc/attention_service.h"

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/server/rpc/error_details.h"
#include "tests/unit/server/rpc/server_fixture.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

class AttentionServiceTest : public ServerFixture {
 protected:
  // What came of a Forward that `change` made of a good one.
  grpc::Status ForwardWith(const std::function<void(v1::ForwardRequest&)>& change) {
    v1::ForwardRequest request = Qkv<v1::ForwardRequest>();
    change(request);
    v1::ForwardResponse response;
    return Forward(request, &response);
  }

  std::string PutQ() {
    absl::StatusOr<PendingTensor> pending = store_.Create({}, {DType::kFloat32, {1, 2, 3, 4}});
    EXPECT_TRUE(pending.ok());
    return (*std::move(pending)).Commit().handle;
  }
};

TEST_F(AttentionServiceTest, ForwardReturnsOAndLseInline) {
  v1::ForwardResponse response;
  const grpc::Status status = Forward(Qkv<v1::ForwardRequest>(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.o().data(), std::string(1 * 2 * 3 * 5 * 4, '\1'));
  EXPECT_EQ(response.o().dtype(), v1::FLOAT32);
  EXPECT_EQ(response.o().shape_size(), 4);
  EXPECT_EQ(response.lse().data(), std::string(1 * 2 * 3 * 4, '\2'));
  EXPECT_EQ(response.lse().shape_size(), 3);
  EXPECT_EQ(response.execution().kernel(), "fake_kernel");
  EXPECT_EQ(response.execution().device(), "cpu");
  EXPECT_EQ(response.execution().implementation(), v1::REFERENCE);
  EXPECT_EQ(response.execution().compute_seconds(), 0.002);
  EXPECT_GE(response.execution().queue_seconds(), 0.0);
}

TEST_F(AttentionServiceTest, VjpReturnsCotangentsByDefault) {
  v1::VjpRequest request = Qkv<v1::VjpRequest>();
  *request.mutable_o_bar() = MakeTensor({1, 2, 3, 5});
  v1::VjpResponse response;
  grpc::ClientContext context;
  const grpc::Status status = attention_->Vjp(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.has_o());
  EXPECT_FALSE(response.has_lse());
  EXPECT_EQ(response.q_bar().data(), std::string(96, '\5'));
  EXPECT_EQ(response.k_bar().data(), std::string(96, '\6'));
  EXPECT_EQ(response.v_bar().data(), std::string(120, '\7'));
}

TEST_F(AttentionServiceTest, JvpReturnsOAndItsTangentByDefault) {
  v1::JvpRequest request = Qkv<v1::JvpRequest>();
  *request.mutable_k_dot() = MakeTensor({1, 2, 3, 4});
  v1::JvpResponse response;
  grpc::ClientContext context;
  const grpc::Status status = attention_->Jvp(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.o().data(), std::string(120, '\1'));
  EXPECT_EQ(response.o_dot().data(), std::string(120, '\3'));
  EXPECT_FALSE(response.has_lse());
  EXPECT_FALSE(response.has_lse_dot());
  EXPECT_FALSE(backend_.last_inputs.q_dot.has_value());
  EXPECT_TRUE(backend_.last_inputs.k_dot.has_value());
}

TEST_F(AttentionServiceTest, HvpReturnsCotangentsAndTheirTangentsByDefault) {
  v1::HvpRequest request = Qkv<v1::HvpRequest>();
  *request.mutable_o_bar() = MakeTensor({1, 2, 3, 5});
  *request.mutable_v_dot() = MakeTensor({1, 2, 3, 5});
  v1::HvpResponse response;
  grpc::ClientContext context;
  const grpc::Status status = attention_->Hvp(&context, request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.has_o() || response.has_lse() || response.has_o_dot() ||
               response.has_lse_dot());
  EXPECT_EQ(response.q_bar().data(), std::string(96, '\5'));
  EXPECT_EQ(response.v_bar().data(), std::string(120, '\7'));
  EXPECT_EQ(response.q_bar_dot().data(), std::string(96, '\10'));
  EXPECT_EQ(response.v_bar_dot().data(), std::string(120, '\12'));
}

TEST_F(AttentionServiceTest, OptionsReachTheBackend) {
  const grpc::Status status = ForwardWith([](v1::ForwardRequest& request) {
    v1::AttentionOptions& options = *request.mutable_options();
    options.set_scale(0.25);
    options.set_is_causal(true);
    options.mutable_window()->set_left(2);
    options.mutable_dropout()->set_probability(0.5);
    options.mutable_dropout()->set_seed(7);
    options.mutable_dropout()->set_offset(9);
    options.set_precision(v1::FAST);
    options.set_implementation(v1::REFERENCE);
    *options.mutable_mask() = MakeTensor({3, 3}, v1::BOOL);
  });
  ASSERT_TRUE(status.ok()) << status.error_message();
  const AttentionOptions& options = backend_.last_inputs.options;
  EXPECT_EQ(options.scale, 0.25);
  EXPECT_EQ(backend_.last_problem.scale, 0.25);
  EXPECT_TRUE(options.is_causal);
  EXPECT_EQ(options.window->left, 2);
  EXPECT_FALSE(options.window->right.has_value());
  EXPECT_EQ(options.dropout.probability, 0.5);
  EXPECT_EQ(options.dropout.seed, 7u);
  EXPECT_EQ(options.dropout.offset, 9u);
  EXPECT_EQ(options.precision, Precision::kFast);
  EXPECT_EQ(options.implementation, Implementation::kReference);
  EXPECT_EQ(options.mask->dtype, DType::kBool);
}

TEST_F(AttentionServiceTest, OutputsStayResidentWhereAsked) {
  v1::ForwardRequest request = Qkv<v1::ForwardRequest>();
  request.mutable_outputs()->set_o(v1::RESIDENT);
  request.mutable_outputs()->set_lse(v1::SKIP);
  request.mutable_outputs()->set_resident_ttl_ms(5000);
  v1::ForwardResponse response;
  const grpc::Status status = Forward(request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_FALSE(response.has_lse());
  EXPECT_EQ(response.o().dtype(), v1::FLOAT32);
  const auto lease = store_.Acquire({}, response.o().handle());
  ASSERT_TRUE(lease.ok());
  EXPECT_EQ(lease->spec(), (TensorSpec{DType::kFloat32, {1, 2, 3, 5}}));
  EXPECT_EQ(std::string(static_cast<const char*>(lease->data()), 120), std::string(120, '\1'));
  EXPECT_LE(store_.Stat({}, response.o().handle())->expires_in, absl::Seconds(5));

  // And serve as inputs of the next call.
  v1::VjpRequest next = Qkv<v1::VjpRequest>();
  next.mutable_o_bar()->set_handle(response.o().handle());
  v1::VjpResponse next_response;
  grpc::ClientContext context;
  EXPECT_TRUE(attention_->Vjp(&context, next, &next_response).ok());
  EXPECT_EQ(backend_.last_inputs.o_bar->data, lease->data());
}

TEST_F(AttentionServiceTest, FailedCallsLeaveNothingResident) {
  backend_.failure = absl::InternalError("device fault");
  const grpc::Status status = ForwardWith(
      [](v1::ForwardRequest& request) { request.mutable_outputs()->set_o(v1::RESIDENT); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(store_.stats().entries, 0u);
  EXPECT_EQ(store_.stats().used_bytes, 0u);
}

TEST_F(AttentionServiceTest, EveryMissingHandleIsNamed) {
  const std::string present = PutQ();
  const grpc::Status status = ForwardWith([&](v1::ForwardRequest& request) {
    request.mutable_q()->set_handle(present);
    request.mutable_k()->set_handle("gone-k");
    request.mutable_options()->mutable_mask()->set_handle("gone-mask");
  });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  const auto detail = DetailOf<google::rpc::PreconditionFailure>(status);
  ASSERT_TRUE(detail.has_value());
  ASSERT_EQ(detail->violations_size(), 2);
  EXPECT_EQ(detail->violations(0).subject(), "gone-k");
  EXPECT_EQ(detail->violations(1).subject(), "gone-mask");
  EXPECT_EQ(store_.Stat({}, present)->readers, 0);
}

struct BadRequest {
  std::string name;
  std::function<void(v1::ForwardRequest&)> change;
  std::string field;
};

// A tensor of one element that claims to be larger by strides of 0.
v1::Tensor Repeated(std::int64_t seq, std::int64_t head_dim) {
  v1::Tensor tensor = MakeTensor({1, 1, 1, 1}, v1::FLOAT16);
  tensor.set_shape(2, seq);
  tensor.set_shape(3, head_dim);
  for (int axis = 0; axis < 4; ++axis) tensor.add_strides(0);
  return tensor;
}

v1::ForwardRequest RepeatedRequest(std::int64_t seq_q, std::int64_t seq_kv,
                                   std::int64_t head_dim_v) {
  v1::ForwardRequest request;
  *request.mutable_q() = Repeated(seq_q, 1);
  *request.mutable_k() = Repeated(seq_kv, 1);
  *request.mutable_v() = Repeated(seq_kv, head_dim_v);
  return request;
}

std::vector<BadRequest> BadRequests() {
  using Request = v1::ForwardRequest;
  return {
      {"NoV", [](Request& r) { r.clear_v(); }, "v"},
      {"ShapesThatDoNotFit",
       [](Request& r) {
         *r.mutable_k() = MakeTensor({1, 2, 3, 8});
       },
       "k.shape[3]"},
      {"ShortData", [](Request& r) { r.mutable_k()->mutable_data()->pop_back(); }, "k.data"},
      {"UnknownPrecision",
       [](Request& r) { r.mutable_options()->set_precision(static_cast<v1::Precision>(9)); },
       "options.precision"},
      {"UnknownImplementation",
       [](Request& r) {
         r.mutable_options()->set_implementation(static_cast<v1::Implementation>(9));
       },
       "options.implementation"},
      {"MalformedMask", [](Request& r) { r.mutable_options()->mutable_mask()->set_data("x"); },
       "options.mask.dtype"},
      {"UnknownOutputMode",
       [](Request& r) { r.mutable_outputs()->set_lse(static_cast<v1::OutputMode>(9)); },
       "outputs.lse"},
      {"OutputOfAnotherOperation", [](Request& r) { r.mutable_outputs()->set_q_bar(v1::INLINE); },
       "outputs.q_bar"},
      {"NegativeTtl", [](Request& r) { r.mutable_outputs()->set_resident_ttl_ms(-1); },
       "outputs.resident_ttl_ms"},
      {"EndlessTtl", [](Request& r) { r.mutable_outputs()->set_resident_ttl_ms(INT64_MAX); },
       "outputs.resident_ttl_ms"},
      // Strides of 0 make large problems of few bytes: outputs are counted before any exists.
      {"OutputsThatNoMessageHolds", [](Request& r) { r = RepeatedRequest(300'000, 1, 1); },
       "outputs"},
      {"ResidentOutputThatNoTensorMayBe",
       [](Request& r) {
         r = RepeatedRequest(5000, 1, 512);
         r.mutable_outputs()->set_o(v1::RESIDENT);
         r.mutable_outputs()->set_lse(v1::SKIP);
       },
       "outputs.o"},
      {"MoreThanIsEverAdmitted",
       [](Request& r) {
         r = RepeatedRequest(500'000, 500'000, 1);
         r.mutable_outputs()->set_o(v1::SKIP);
         r.mutable_outputs()->set_lse(v1::SKIP);
       },
       "q.shape"},
  };
}

class BadRequestTest : public AttentionServiceTest,
                       public testing::WithParamInterface<BadRequest> {};

TEST_P(BadRequestTest, IsRefusedByItsField) {
  const grpc::Status status = ForwardWith(GetParam().change);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_EQ(FieldAtFault(status), GetParam().field) << status.error_message();
  EXPECT_EQ(backend_.runs, 0);
}

INSTANTIATE_TEST_SUITE_P(All, BadRequestTest, testing::ValuesIn(BadRequests()),
                         [](const auto& info) { return info.param.name; });

TEST_F(AttentionServiceTest, UnsupportedIsUnimplemented) {
  const grpc::Status status = ForwardWith(
      [](v1::ForwardRequest& r) { r.mutable_options()->set_implementation(v1::FUSED); });
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_THAT(status.error_message(), HasSubstr("only reference"));
}

TEST_F(AttentionServiceTest, OverloadIsExhaustionWithRetryInfo) {
  backend_.blocks = true;
  std::vector<std::thread> accepted;
  for (int i = 0; i < 2; ++i) {
    accepted.emplace_back([this] {
      v1::ForwardResponse response;
      EXPECT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
    });
    if (i == 0) backend_.blocked.Wait();  // else the two may start together, as one
  }
  while (executor_.load().queued < 1) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const grpc::Status status = ForwardWith([](v1::ForwardRequest&) {});
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(DetailOf<google::rpc::RetryInfo>(status).has_value());
  backend_.unblock.Notify();
  for (std::thread& call : accepted) call.join();
}

TEST_F(AttentionServiceTest, AdmissionCountsWhatLiesBetweenStridedElements) {
  constexpr std::int64_t kStride = 10'000;
  v1::ForwardRequest request = Qkv<v1::ForwardRequest>();
  v1::Tensor& v = *request.mutable_v();  // (1, 2, 3, 5)
  for (const std::int64_t stride : {std::int64_t{0}, kStride, std::int64_t{5}, std::int64_t{1}}) {
    v.add_strides(stride);
  }
  v.set_data(std::string((kStride + 15) * sizeof(float), '\0'));
  backend_.blocks = true;
  std::thread accepted([&] {
    v1::ForwardResponse response;
    const grpc::Status status = Forward(request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
  });
  backend_.blocked.Wait();
  EXPECT_GT(executor_.load().accepted_bytes, kStride * sizeof(float));
  backend_.unblock.Notify();
  accepted.join();
}

TEST_F(AttentionServiceTest, CancellationInterruptsTheComputation) {
  backend_.blocks = true;
  grpc::ClientContext context;
  std::thread cancel([&] {
    backend_.blocked.Wait();
    context.TryCancel();
  });
  v1::ForwardResponse response;
  const grpc::Status status = attention_->Forward(&context, Qkv<v1::ForwardRequest>(), &response);
  cancel.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(gate_.AwaitIdle(absl::Now() + absl::Seconds(20)));  // though it was never unblocked
}

TEST_F(AttentionServiceTest, DeadlineEndsTheComputation) {
  backend_.blocks = true;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
  v1::ForwardResponse response;
  const grpc::Status status = attention_->Forward(&context, Qkv<v1::ForwardRequest>(), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(gate_.AwaitIdle(absl::Now() + absl::Seconds(20)));
}

TEST_F(AttentionServiceTest, CancellationInTheQueueComputesNothing) {
  backend_.blocks = true;
  std::thread running([this] {
    v1::ForwardResponse response;
    EXPECT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
  });
  backend_.blocked.Wait();
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + absl::Milliseconds(100)));
  v1::ForwardResponse response;
  EXPECT_EQ(attention_->Forward(&context, Qkv<v1::ForwardRequest>(), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  while (executor_.load().queued > 0) absl::SleepFor(absl::Milliseconds(1));
  backend_.unblock.Notify();
  running.join();
  EXPECT_EQ(backend_.runs, 1);
}

TEST_F(AttentionServiceTest, CallsAreUnavailableWhileDraining) {
  gate_.Close();
  EXPECT_EQ(ForwardWith([](v1::ForwardRequest&) {}).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(AttentionServiceTest, CountsComputations) {
  v1::ForwardResponse response;
  ASSERT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
  EXPECT_THAT(registry_.Text(), HasSubstr("theria_compute_seconds_count{dtype=\"float32\","
                                          "implementation=\"reference\",op=\"forward\"} 1\n"));
}

}  // namespace
}  // namespace theria::server
