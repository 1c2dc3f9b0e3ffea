#include "server/rpc/server_service.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/server/rpc/error_details.h"
#include "tests/unit/server/rpc/server_fixture.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

class ServerServiceTest : public ServerFixture {
 protected:
  static v1::RunBenchmarkRequest HvpBenchmark() {
    v1::RunBenchmarkRequest request;
    request.set_operation(v1::HVP);
    request.set_dtype(v1::BFLOAT16);
    request.set_batch(1);
    request.set_heads_q(4);
    request.set_heads_kv(2);
    request.set_seq_q(8);
    request.set_seq_kv(16);
    request.set_head_dim(3);
    request.set_head_dim_v(5);
    request.set_repetitions(4);
    return request;
  }

  grpc::Status Run(const v1::RunBenchmarkRequest& request, v1::RunBenchmarkResponse* response) {
    grpc::ClientContext context;
    return info_->RunBenchmark(&context, request, response);
  }
};

TEST_F(ServerServiceTest, TellsWhatTheServerIs) {
  absl::StatusOr<PendingTensor> pending = store_.Create({}, {DType::kFloat32, {10}});
  (*std::move(pending)).Commit();
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(info_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.version(), "1.2.3");
  EXPECT_EQ(info.commit(), "abc");
  EXPECT_EQ(info.backend(), "fake");
  ASSERT_EQ(info.devices_size(), 1);
  EXPECT_EQ(info.devices(0).name(), "a fake");
  EXPECT_EQ(info.devices(0).memory_bytes(), 1024u);
  ASSERT_EQ(info.kernels_size(), 1);
  EXPECT_EQ(info.kernels(0).operation(), v1::HVP);
  EXPECT_EQ(info.kernels(0).dtype(), v1::BFLOAT16);
  EXPECT_EQ(info.kernels(0).implementation(), v1::REFERENCE);
  EXPECT_EQ(info.kernels(0).max_head_dim(), 512);
  EXPECT_EQ(info.limits().max_message_bytes(), kMaxMessageBytes);
  EXPECT_EQ(info.limits().max_tensor_bytes(), kMaxTensorBytes);
  EXPECT_EQ(info.limits().max_queued_requests(), 2u);
  EXPECT_EQ(info.limits().max_queued_bytes(), kMaxRequestBytes);
  EXPECT_EQ(info.limits().default_ttl_ms(), 600'000);
  EXPECT_EQ(info.limits().max_ttl_ms(), 86'400'000);
  EXPECT_EQ(info.limits().max_pin_ms(), 3'600'000);
  EXPECT_EQ(info.limits().max_benchmark_repetitions(), 20u);
  EXPECT_EQ(info.store().capacity_bytes(), std::size_t{1} << 20);
  EXPECT_EQ(info.store().used_bytes(), 40u);
  EXPECT_EQ(info.store().entries(), 1u);
  EXPECT_GT(info.uptime_seconds(), 0);
  EXPECT_FALSE(info.shared_memory());
}

TEST_F(ServerServiceTest, TimesARunAndPublishesIt) {
  v1::RunBenchmarkResponse response;
  const grpc::Status status = Run(HvpBenchmark(), &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(backend_.runs, 5);  // one to warm up
  ASSERT_EQ(response.seconds_size(), 4);
  EXPECT_EQ(response.seconds(0), 0.002);
  EXPECT_EQ(response.median_seconds(), 0.002);
  EXPECT_GT(response.flops(), 0);
  EXPECT_EQ(response.flops_per_second(), response.flops() / 0.002);
  // q 96, k 96, v 160, o 160 elements: twice q, k and v (with tangents) and o_bar come in, twice
  // q, k and v go out.
  EXPECT_EQ(response.bytes(), 2u * (4 * (96 + 96 + 160) + 160));
  EXPECT_EQ(response.execution().kernel(), "fake_kernel");
  EXPECT_EQ(backend_.last_problem.heads_kv, 2);
  EXPECT_EQ(backend_.last_problem.seq_kv, 16);
  EXPECT_THAT(registry_.Text(),
              HasSubstr("theria_benchmark_seconds{dtype=\"bfloat16\",implementation=\"reference\","
                        "op=\"hvp\",shape=\"b1_h4-2_s8-16_d3-5\"} 0.002\n"));
}

TEST_F(ServerServiceTest, DefaultsFollowTheQueriesAndThePresetNamesTheGauge) {
  v1::RunBenchmarkRequest request = HvpBenchmark();
  request.set_operation(v1::FORWARD);
  request.clear_heads_kv();
  request.clear_seq_kv();
  request.clear_head_dim_v();
  request.clear_repetitions();
  request.set_preset("tiny");
  v1::RunBenchmarkResponse response;
  ASSERT_TRUE(Run(request, &response).ok());
  EXPECT_EQ(response.seconds_size(), 10);
  EXPECT_EQ(backend_.last_problem.heads_kv, 4);
  EXPECT_EQ(backend_.last_problem.seq_kv, 8);
  EXPECT_EQ(backend_.last_problem.head_dim_v, 3);
  EXPECT_THAT(registry_.Text(), HasSubstr("shape=\"tiny\"} 0.002\n"));
}

struct BadBenchmark {
  std::string name;
  std::function<void(v1::RunBenchmarkRequest&)> change;
  std::string field;
};

class BadBenchmarkTest : public ServerServiceTest,
                         public testing::WithParamInterface<BadBenchmark> {};

TEST_P(BadBenchmarkTest, IsRefusedByItsField) {
  v1::RunBenchmarkRequest request = HvpBenchmark();
  GetParam().change(request);
  v1::RunBenchmarkResponse response;
  const grpc::Status status = Run(request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << status.error_message();
  EXPECT_EQ(FieldAtFault(status), GetParam().field) << status.error_message();
  EXPECT_EQ(backend_.runs, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, BadBenchmarkTest,
    testing::Values(
        BadBenchmark{"NoOperation", [](auto& r) { r.clear_operation(); }, "operation"},
        BadBenchmark{"NoDType", [](auto& r) { r.clear_dtype(); }, "dtype"},
        BadBenchmark{"Bool", [](auto& r) { r.set_dtype(v1::BOOL); }, "q.dtype"},
        BadBenchmark{"NoBatch", [](auto& r) { r.clear_batch(); }, "batch"},
        BadBenchmark{"NegativeSeq", [](auto& r) { r.set_seq_kv(-1); }, "seq_kv"},
        BadBenchmark{"HeadsThatDoNotDivide", [](auto& r) { r.set_heads_kv(3); }, "k.shape[1]"},
        BadBenchmark{"Overflow",
                     [](auto& r) {
                       r.set_batch(INT64_MAX);
                       r.set_seq_q(INT64_MAX);
                     },
                     "q.shape"},
        BadBenchmark{"TooLarge", [](auto& r) { r.set_seq_q(100'000'000); }, "q.shape"},
        BadBenchmark{"MoreThanIsEverAdmitted", [](auto& r) { r.set_seq_q(25'000); }, "batch"},
        BadBenchmark{"TooManyRepetitions", [](auto& r) { r.set_repetitions(21); }, "repetitions"},
        BadBenchmark{"LongPreset", [](auto& r) { r.set_preset(std::string(65, 'p')); }, "preset"}),
    [](const auto& info) { return info.param.name; });

TEST_F(ServerServiceTest, IsUnavailableWhileDraining) {
  gate_.Close();
  v1::RunBenchmarkResponse response;
  EXPECT_EQ(Run(HvpBenchmark(), &response).error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  EXPECT_EQ(info_->GetServerInfo(&context, {}, &info).error_code(), grpc::StatusCode::UNAVAILABLE);
}

}  // namespace
}  // namespace theria::server
