#include "tests/unit/client/cli/faulty_server.h"

#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>
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

// The tensor of that name, if the message has it.
client::AnyTensor DecodeField(const google::protobuf::Message& message, std::string_view name) {
  const auto* const field = message.GetDescriptor()->FindFieldByName(std::string(name));
  if (field == nullptr || !message.GetReflection()->HasField(message, field)) return {};
  return Decode(
      static_cast<const v1::Tensor&>(message.GetReflection()->GetMessage(message, field)));
}

client::AttentionOptions Decode(const v1::AttentionOptions& message) {
  client::AttentionOptions options;
  if (message.has_scale()) options.scale = message.scale();
  if (message.has_softcap()) options.softcap = message.softcap();
  options.is_causal = message.is_causal();
  options.deterministic = message.deterministic();
  options.causal_alignment = static_cast<client::CausalAlignment>(message.causal_alignment());
  if (message.has_window()) {
    options.window.emplace();
    if (message.window().has_left()) options.window->left = message.window().left();
    if (message.window().has_right()) options.window->right = message.window().right();
  }
  for (const client::OptionTensor& option : client::kOptionTensors) {
    options.*option.member = DecodeField(message, option.name);
  }
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
    for (const client::InputField& input : client::kInputFields) {
      request.*input.member = DecodeField(message, input.name);
    }
    request.options = Decode(message.options());

    const client::AttentionResult result = attention_.Run(operation, request, {}).value();
    for (const client::OutputField& output : client::kOutputFields) {
      const client::AnyTensor& tensor = result.*output.member;
      const auto* const field = Response::descriptor()->FindFieldByName(std::string(output.name));
      if (field == nullptr || !tensor.has_value()) continue;
      client::EncodeTensor(tensor, static_cast<v1::Tensor*>(
                                       response->GetReflection()->MutableMessage(response, field)));
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
