#include "tests/unit/client/cli/faulty_server.h"

#include <atomic>
#include <cstdint>
#include <utility>

#include "client/cpp/src/message_codec.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "theria/v1/attention.grpc.pb.h"
#include "theria/v1/server.grpc.pb.h"

namespace theria::cli {
namespace {

using client::Operation;
namespace v1 = theria::v1;

// A tensor of the wire with its strides, which a client never receives.
client::AnyTensor Decode(v1::Tensor tensor) {
  if (!tensor.has_data()) return {};
  auto storage = std::make_shared<const std::string>(std::move(*tensor.mutable_data()));
  const void* data = storage->data();
  return client::Tensor::Adopt(std::move(storage), client::FromMessage(tensor.dtype()).value(),
                               data, {tensor.shape().begin(), tensor.shape().end()},
                               {tensor.strides().begin(), tensor.strides().end()});
}

client::AttentionOptions Decode(const v1::AttentionOptions& message) {
  client::AttentionOptions options;
  if (message.has_scale()) options.scale = message.scale();
  options.is_causal = message.is_causal();
  if (message.has_window()) {
    options.window.emplace();
    if (message.window().has_left()) options.window->left = message.window().left();
    if (message.window().has_right()) options.window->right = message.window().right();
  }
  options.mask = Decode(message.mask());
  options.dropout.probability = message.dropout().probability();
  options.dropout.seed = message.dropout().seed();
  options.dropout.offset = message.dropout().offset();
  return options;
}

// Refuses calls, so many of them.
class Gate {
 public:
  void Refuse(int count, absl::Duration delay) {
    delay_ms_ = absl::ToInt64Milliseconds(delay);
    left_ = count;
  }
  int left() const { return left_; }

  grpc::Status Enter() {
    int left = left_;
    while (left > 0 && !left_.compare_exchange_weak(left, left - 1)) {
    }
    if (left <= 0) return grpc::Status::OK;
    google::rpc::RetryInfo retry;
    retry.mutable_retry_delay()->set_nanos(static_cast<int>(delay_ms_) * 1'000'000);
    google::rpc::Status status;
    status.set_code(grpc::StatusCode::RESOURCE_EXHAUSTED);
    status.add_details()->PackFrom(retry);
    return {grpc::StatusCode::RESOURCE_EXHAUSTED, "too many", status.SerializeAsString()};
  }

 private:
  std::atomic<int> left_ = 0;
  std::atomic<std::int64_t> delay_ms_ = 0;  // under a second
};

class AttentionService : public v1::AttentionService::Service {
 public:
  AttentionService(Fault fault, Gate& gate) : attention_(fault), gate_(gate) {}

  grpc::Status Forward(grpc::ServerContext*, const v1::ForwardRequest* request,
                       v1::ForwardResponse* response) override {
    return Serve(Operation::kForward, *request, response);
  }
  grpc::Status Vjp(grpc::ServerContext*, const v1::VjpRequest* request,
                   v1::VjpResponse* response) override {
    return Serve(Operation::kVjp, *request, response);
  }
  grpc::Status Jvp(grpc::ServerContext*, const v1::JvpRequest* request,
                   v1::JvpResponse* response) override {
    return Serve(Operation::kJvp, *request, response);
  }
  grpc::Status Hvp(grpc::ServerContext*, const v1::HvpRequest* request,
                   v1::HvpResponse* response) override {
    return Serve(Operation::kHvp, *request, response);
  }

 private:
  template <typename Request, typename Response>
  grpc::Status Serve(Operation operation, const Request& message, Response* response) {
    if (grpc::Status admitted = gate_.Enter(); !admitted.ok()) return admitted;
    client::AttentionRequest request;
    request.q = Decode(message.q());
    request.k = Decode(message.k());
    request.v = Decode(message.v());
    if constexpr (requires { message.o_bar(); }) request.o_bar = Decode(message.o_bar());
    if constexpr (requires { message.q_dot(); }) {
      request.q_dot = Decode(message.q_dot());
      request.k_dot = Decode(message.k_dot());
      request.v_dot = Decode(message.v_dot());
    }
    if constexpr (requires { message.o_bar_dot(); })
      request.o_bar_dot = Decode(message.o_bar_dot());
    request.options = Decode(message.options());

    const client::AttentionResult result = attention_.Run(operation, request, {}).value();
    client::EncodeTensor(result.o, response->mutable_o());
    client::EncodeTensor(result.lse, response->mutable_lse());
    if constexpr (requires { response->mutable_o_dot(); }) {
      client::EncodeTensor(result.o_dot, response->mutable_o_dot());
      client::EncodeTensor(result.lse_dot, response->mutable_lse_dot());
    }
    if constexpr (requires { response->mutable_q_bar(); }) {
      client::EncodeTensor(result.q_bar, response->mutable_q_bar());
      client::EncodeTensor(result.k_bar, response->mutable_k_bar());
      client::EncodeTensor(result.v_bar, response->mutable_v_bar());
    }
    if constexpr (requires { response->mutable_q_bar_dot(); }) {
      client::EncodeTensor(result.q_bar_dot, response->mutable_q_bar_dot());
      client::EncodeTensor(result.k_bar_dot, response->mutable_k_bar_dot());
      client::EncodeTensor(result.v_bar_dot, response->mutable_v_bar_dot());
    }
    response->mutable_execution()->set_kernel("faulty");
    return grpc::Status::OK;
  }

  FaultyAttention attention_;
  Gate& gate_;
};

class InfoService : public v1::ServerService::Service {
 public:
  explicit InfoService(Gate& gate) : gate_(gate) {}

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* response) override {
    response->set_version("1.2.3");
    for (const client::KernelSupport& kernel : FaultyAttention::Info().kernels) {
      v1::KernelSupport* message = response->add_kernels();
      message->set_operation(client::ToMessage(kernel.operation));
      message->set_implementation(v1::REFERENCE);
      message->set_dtype(client::ToMessage(kernel.dtype));
      message->set_min_head_dim(kernel.min_head_dim);
      message->set_max_head_dim(kernel.max_head_dim);
    }
    return grpc::Status::OK;
  }

  grpc::Status RunBenchmark(grpc::ServerContext*, const v1::RunBenchmarkRequest* request,
                            v1::RunBenchmarkResponse* response) override {
    if (grpc::Status admitted = gate_.Enter(); !admitted.ok()) return admitted;
    if (request->preset() != "maml" || request->seq_q() != 32) {
      return {grpc::StatusCode::INVALID_ARGUMENT, "not the preset that was asked for"};
    }
    response->add_seconds(0.5);
    response->set_median_seconds(0.5);
    response->set_flops_per_second(1e9);
    return grpc::Status::OK;
  }

 private:
  Gate& gate_;
};

}  // namespace

class FaultyServer::Services {
 public:
  explicit Services(Fault fault) : attention_(fault, gate_), info_(gate_) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&attention_);
    builder.RegisterService(&info_);
    server_ = builder.BuildAndStart();
  }
  ~Services() { server_->Shutdown(); }

  int port() const { return port_; }
  Gate& gate() { return gate_; }

 private:
  Gate gate_;
  AttentionService attention_;
  InfoService info_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

FaultyServer::FaultyServer(Fault fault)
    : services_(std::make_unique<Services>(fault)),
      target_("127.0.0.1:" + std::to_string(services_->port())) {}

FaultyServer::~FaultyServer() = default;

void FaultyServer::Refuse(int count, absl::Duration delay) {
  services_->gate().Refuse(count, delay);
}

int FaultyServer::refusals_left() const { return services_->gate().left(); }

}  // namespace theria::cli
