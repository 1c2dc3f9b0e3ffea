#include "theria/client.h"

#include <utility>

#include "absl/time/clock.h"
#include "client/cpp/src/attention_codec.h"
#include "client/cpp/src/client_impl.h"
#include "client/cpp/src/grpc_connection.h"
#include "client/cpp/src/message_codec.h"
#include "client/cpp/src/resident_tensor_state.h"
#include "client/cpp/src/shared_region_state.h"

namespace theria::client {
namespace {

// A message that names one tensor and perhaps a duration, sent by `method`; the answer's info.
template <typename Request, typename Response>
absl::StatusOr<TensorInfo> CallForInfo(Connection& connection,
                                       absl::Status (Connection::*method)(const Request&, Response*,
                                                                          CallContext&),
                                       const Request& request, CallContext call) {
  Response response;
  const absl::Status status = (connection.*method)(request, &response, call);
  if (!status.ok()) return status;
  return FromMessage(response.info());
}

}  // namespace

Client::Client(const std::string& target, const ClientOptions& options)
    : Client(std::make_unique<Impl>(
          std::make_unique<GrpcConnection>(Connect(target, options), options.retry),
          options.timeout)) {}

Client::Client(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Client::Client(Client&&) noexcept = default;
Client& Client::operator=(Client&&) noexcept = default;
Client::~Client() = default;

absl::StatusOr<AttentionResult> Client::Run(Operation operation, const AttentionRequest& request,
                                            const CallOptions& call) {
  switch (operation) {
    case Operation::kForward:
      return impl_->Run(operation, &Connection::Forward, request, call);
    case Operation::kVjp:
      return impl_->Run(operation, &Connection::Vjp, request, call);
    case Operation::kJvp:
      return impl_->Run(operation, &Connection::Jvp, request, call);
    case Operation::kHvp:
      return impl_->Run(operation, &Connection::Hvp, request, call);
  }
  return absl::InvalidArgumentError("no such operation");
}

absl::StatusOr<ResidentTensor> Client::Put(const Tensor& tensor, const PutOptions& options,
                                           const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  absl::StatusOr<TensorInfo> info = impl_->Upload(tensor, options, context);
  if (!info.ok()) return info.status();
  auto state = std::make_shared<ResidentTensor::State>(tensor.dtype(), tensor.shape(),
                                                       std::move(info->handle));
  const bool is_shared = impl_->regions().PartOf(tensor).has_value();
  if (options.retain_source.value_or(tensor.owns_elements() && !is_shared)) {
    absl::MutexLock lock(&state->mutex);
    state->source = RetainedSource{tensor, options, impl_->owner()};
  }
  return ResidentTensor(std::move(state));
}

absl::StatusOr<Tensor> Client::Get(const ResidentTensor& tensor, const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->Download(tensor, nullptr, context);
}

absl::StatusOr<Tensor> Client::Get(const ResidentTensor& tensor, const SharedRegion& region,
                                   const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->Download(tensor, &region, context);
}

absl::StatusOr<SharedRegion> Client::Share(std::size_t size_bytes, absl::Duration ttl,
                                           const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->Share(size_bytes, ttl, context);
}

absl::StatusOr<absl::Duration> Client::Renew(const SharedRegion& region, absl::Duration ttl,
                                             const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->Renew(*region.state(), ttl, context);
}

absl::Status Client::Unshare(const SharedRegion& region, const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->Unshare(*region.state(), context);
}

absl::StatusOr<ResidentTensor> Client::Attach(const std::string& handle, const CallOptions& call) {
  v1::StatRequest request;
  request.set_handle(handle);
  const absl::StatusOr<TensorInfo> info =
      CallForInfo(impl_->connection(), &Connection::Stat, request, impl_->Begin(call));
  if (!info.ok()) return info.status();
  return ResidentTensor(std::make_shared<ResidentTensor::State>(info->dtype, info->shape, handle));
}

absl::StatusOr<TensorInfo> Client::Stat(const ResidentTensor& tensor, const CallOptions& call) {
  v1::StatRequest request;
  request.set_handle(tensor.handle());
  return CallForInfo(impl_->connection(), &Connection::Stat, request, impl_->Begin(call));
}

absl::StatusOr<std::vector<TensorInfo>> Client::List(const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  std::vector<TensorInfo> tensors;
  v1::ListRequest request;
  do {
    v1::ListResponse response;
    const absl::Status status = impl_->connection().List(request, &response, context);
    if (!status.ok()) return status;
    for (const v1::TensorInfo& message : response.tensors()) {
      absl::StatusOr<TensorInfo> info = FromMessage(message);
      if (!info.ok()) return info.status();
      tensors.push_back(*std::move(info));
    }
    request.set_page_token(response.next_page_token());
  } while (!request.page_token().empty());
  return tensors;
}

absl::StatusOr<TensorInfo> Client::Renew(const ResidentTensor& tensor, absl::Duration ttl,
                                         const CallOptions& call) {
  v1::RenewRequest request;
  request.set_handle(tensor.handle());
  request.set_ttl_ms(ToMilliseconds(ttl));
  return CallForInfo(impl_->connection(), &Connection::Renew, request, impl_->Begin(call));
}

absl::StatusOr<TensorInfo> Client::Pin(const ResidentTensor& tensor, absl::Duration pin,
                                       const CallOptions& call) {
  v1::PinRequest request;
  request.set_handle(tensor.handle());
  request.set_pin_ms(ToMilliseconds(pin));
  return CallForInfo(impl_->connection(), &Connection::Pin, request, impl_->Begin(call));
}

absl::StatusOr<TensorInfo> Client::Unpin(const ResidentTensor& tensor, const CallOptions& call) {
  v1::UnpinRequest request;
  request.set_handle(tensor.handle());
  return CallForInfo(impl_->connection(), &Connection::Unpin, request, impl_->Begin(call));
}

absl::Status Client::Delete(const ResidentTensor& tensor, const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->Delete(tensor, context);
}

absl::StatusOr<ServerInfo> Client::GetServerInfo(const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  v1::GetServerInfoResponse response;
  const absl::Status status = impl_->connection().GetServerInfo({}, &response, context);
  if (!status.ok()) return status;
  return FromMessage(response);
}

absl::StatusOr<BenchmarkResult> Client::RunBenchmark(const BenchmarkRequest& request,
                                                     const CallOptions& call) {
  v1::RunBenchmarkRequest message;
  message.set_operation(ToMessage(request.operation));
  message.set_dtype(ToMessage(request.dtype));
  message.set_batch(request.batch);
  message.set_heads_q(request.heads_q);
  message.set_heads_kv(request.heads_kv);
  message.set_seq_q(request.seq_q);
  message.set_seq_kv(request.seq_kv);
  message.set_head_dim(request.head_dim);
  message.set_head_dim_v(request.head_dim_v);
  EncodeOptions(request.options, message.mutable_options());
  if (request.options.mask.has_value()) {
    EncodeTensor(request.options.mask, message.mutable_options()->mutable_mask());
  }
  message.set_repetitions(request.repetitions);
  message.set_preset(request.preset);

  const absl::Time start = absl::Now();
  CallContext context = impl_->Begin(call);
  v1::RunBenchmarkResponse response;
  const absl::Status status = impl_->connection().RunBenchmark(message, &response, context);
  if (!status.ok()) return status;
  BenchmarkResult result;
  for (double seconds : response.seconds()) result.times.push_back(absl::Seconds(seconds));
  result.median_time = absl::Seconds(response.median_seconds());
  result.flops = response.flops();
  result.flops_per_second = response.flops_per_second();
  result.bytes = response.bytes();
  result.execution = FromMessage(response.execution());
  result.execution.rpc_time = context.rpc_time;
  result.execution.total_time = absl::Now() - start;
  return result;
}

absl::StatusOr<Health> Client::CheckHealth(const std::string& service, const CallOptions& call) {
  CallContext context = impl_->Begin(call);
  return impl_->connection().CheckHealth(service, context);
}

}  // namespace theria::client
