#ifndef THERIA_TESTS_UNIT_SERVER_RPC_SERVER_FIXTURE_H_
#define THERIA_TESTS_UNIT_SERVER_RPC_SERVER_FIXTURE_H_

#include <memory>
#include <string>

#include "absl/time/clock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "server/rpc/attention_service.h"
#include "server/rpc/grpc_server.h"
#include "server/rpc/server_service.h"
#include "server/rpc/tensor_service.h"
#include "server/telemetry/log.h"
#include "tests/unit/server/rpc/fake_backend.h"

// A server in this process, on a free port, over a backend of the test, and a channel to it.

namespace theria::server {

// A tensor of zeros.
inline v1::Tensor MakeTensor(std::initializer_list<std::int64_t> shape,
                             v1::DType dtype = v1::FLOAT32) {
  v1::Tensor tensor;
  tensor.set_dtype(dtype);
  std::size_t size_bytes = ItemSizeBytes(*DecodeDType(dtype, ""));
  for (const std::int64_t extent : shape) {
    tensor.add_shape(extent);
    size_bytes *= static_cast<std::size_t>(extent);
  }
  tensor.set_data(std::string(size_bytes, '\0'));
  return tensor;
}

template <typename TestBackend>
class BasicServerFixture : public testing::Test {
 protected:
  static constexpr std::size_t kStoreBytes = std::size_t{1} << 20;
  static constexpr std::size_t kMaxTensorBytes = std::size_t{1} << 20;
  static constexpr std::size_t kMaxMessageBytes = std::size_t{256} << 10;
  static constexpr std::size_t kMaxRequestBytes = std::size_t{2} << 20;

  static void SetUpTestSuite() { SetUpLog(spdlog::level::off, LogFormat::kLogfmt); }

  void SetUp() override {
    auto server = GrpcServer::Start(
        {.listen = {"127.0.0.1:0"},
         .max_message_bytes = kMaxMessageBytes,
         .max_transport_bytes = std::size_t{64} << 20},
        {&attention_service_, &tensor_service_, &server_service_},
        {v1::AttentionService::service_full_name(), v1::ServerService::service_full_name()},
        rpc_metrics_, gate_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    // A channel of its own: those with equal arguments share a connection.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetMaxReceiveMessageSize(-1);
    channel_ = grpc::CreateCustomChannel(server_->addresses().front(),
                                         grpc::InsecureChannelCredentials(), arguments);
    attention_ = v1::AttentionService::NewStub(channel_);
    tensors_ = v1::TensorService::NewStub(channel_);
    info_ = v1::ServerService::NewStub(channel_);
    // What stands above happens before any job. gRPC sees to that, but ThreadSanitizer does not see
    // gRPC; the executor's mutex it sees.
    executor_.load();
  }

  void TearDown() override {
    EndRuns();
    server_.reset();
    // A job answers a little before it gives its place back.
    EXPECT_TRUE(executor_.Drain(absl::Now() + absl::Seconds(20)));
    EXPECT_EQ(executor_.load().accepted_bytes, 0u);
  }

  // Lets go of runs that the test has made to wait.
  virtual void EndRuns() {}

  // q, k, v of (1, 2, 3, 4) and head_dim_v 5.
  template <typename Request>
  static Request Qkv() {
    Request request;
    *request.mutable_q() = MakeTensor({1, 2, 3, 4});
    *request.mutable_k() = MakeTensor({1, 2, 3, 4});
    *request.mutable_v() = MakeTensor({1, 2, 3, 5});
    return request;
  }

  grpc::Status Forward(const v1::ForwardRequest& request, v1::ForwardResponse* response) {
    grpc::ClientContext context;
    return attention_->Forward(&context, request, response);
  }

  // A device's store has as much again to spill to.
  static TensorStore::Options StoreOptions(Backend& backend) {
    TensorStore::Options options;
    options.capacity_bytes = kStoreBytes;
    if (!backend.memory().host_accessible()) {
      options.spill_memory = &backend.spill_memory();
      options.spill_capacity_bytes = kStoreBytes;
    }
    return options;
  }

  TestBackend backend_;
  TensorStore store_{backend_.memory(), StoreOptions(backend_)};
  MetricRegistry registry_;
  RpcMetrics rpc_metrics_{registry_};
  ComputeMetrics compute_metrics_{registry_};
  Executor executor_{{.slots = 1,
                      .max_accepted_jobs = 2,
                      .max_accepted_bytes = kMaxRequestBytes,
                      .max_inline_flops = 0},
                     compute_metrics_};
  DrainGate gate_;
  Authenticator authenticator_;
  Admission admission_{gate_, authenticator_};
  AttentionService attention_service_{
      {backend_, store_, executor_, compute_metrics_, admission_},
      {kMaxTensorBytes, kMaxRequestBytes, kMaxMessageBytes - (std::size_t{16} << 10)},
      absl::Hours(1)};
  TensorService tensor_service_{store_, admission_};
  ServerService server_service_{{backend_, store_, executor_, compute_metrics_, admission_},
                                {.version = "1.2.3",
                                 .commit = "abc",
                                 .max_message_bytes = kMaxMessageBytes,
                                 .max_tensor_bytes = kMaxTensorBytes,
                                 .max_benchmark_repetitions = 20,
                                 .max_call_time = absl::Hours(1)}};
  std::unique_ptr<GrpcServer> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::AttentionService::Stub> attention_;
  std::unique_ptr<v1::TensorService::Stub> tensors_;
  std::unique_ptr<v1::ServerService::Stub> info_;
};

// Over a FakeBackend.
class ServerFixture : public BasicServerFixture<FakeBackend> {
 protected:
  void EndRuns() override { backend_.unblock.Notify(); }
};

}  // namespace theria::server

#endif  // THERIA_TESTS_UNIT_SERVER_RPC_SERVER_FIXTURE_H_
