#include "server/rpc/server_service.h"

#include <utility>

#include "absl/time/clock.h"
#include "server/rpc/benchmark_call.h"
#include "server/rpc/options_codec.h"
#include "server/rpc/request_context.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"

namespace theria::server {
namespace {

void EncodeBackend(const Backend& backend, v1::GetServerInfoResponse& response) {
  response.set_backend(std::string(backend.name()));
  for (const DeviceInfo& device : backend.Devices()) {
    v1::DeviceInfo* wire = response.add_devices();
    wire->set_id(device.id);
    wire->set_name(device.name);
    wire->set_memory_bytes(device.memory_bytes);
    wire->set_architecture(device.architecture);
  }
  for (const KernelSupport& kernel : backend.Kernels()) {
    v1::KernelSupport* wire = response.add_kernels();
    wire->set_operation(EncodeOperation(kernel.operation));
    wire->set_implementation(EncodeImplementation(kernel.implementation));
    wire->set_dtype(EncodeDType(kernel.dtype));
    wire->set_min_head_dim(kernel.min_head_dim);
    wire->set_max_head_dim(kernel.max_head_dim);
    wire->set_head_dim_multiple(kernel.head_dim_multiple);
  }
}

}  // namespace

ServerService::ServerService(const ServerServiceParts& parts, ServerServiceOptions options)
    : parts_(parts), options_(std::move(options)), started_(MonotonicNow()) {}

grpc::ServerUnaryReactor* ServerService::GetServerInfo(grpc::CallbackServerContext* context,
                                                       const v1::GetServerInfoRequest* request,
                                                       v1::GetServerInfoResponse* response) {
  RequestContext& request_context = RequestContext::Of(context);
  request_context.record()->request_bytes = request->ByteSizeLong();
  if (absl::Status admitted = parts_.admission.Admit(request_context); !admitted.ok()) {
    return FinishNow(context, admitted);
  }
  response->set_version(options_.version);
  response->set_commit(options_.commit);
  EncodeBackend(parts_.backend, *response);

  const TensorStore::Options& store = parts_.store.options();
  v1::ServerLimits& limits = *response->mutable_limits();
  limits.set_max_message_bytes(options_.max_message_bytes);
  limits.set_max_tensor_bytes(options_.max_tensor_bytes);
  limits.set_max_queued_requests(parts_.executor.options().max_accepted_jobs);
  limits.set_max_queued_bytes(parts_.executor.options().max_accepted_bytes);
  limits.set_default_ttl_ms(absl::ToInt64Milliseconds(store.default_ttl));
  limits.set_max_ttl_ms(absl::ToInt64Milliseconds(store.max_ttl));
  limits.set_max_pin_ms(absl::ToInt64Milliseconds(store.max_pin));
  limits.set_max_benchmark_repetitions(options_.max_benchmark_repetitions);

  const TensorStore::TenantStats stats = parts_.store.tenant_stats(request_context.tenant());
  response->mutable_store()->set_capacity_bytes(stats.quota_bytes);
  response->mutable_store()->set_used_bytes(stats.used_bytes);
  response->mutable_store()->set_entries(stats.entries);
  response->set_uptime_seconds(absl::ToDoubleSeconds(MonotonicNow() - started_));
  response->set_shared_memory(parts_.regions != nullptr);
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* ServerService::RunBenchmark(grpc::CallbackServerContext* context,
                                                      const v1::RunBenchmarkRequest* request,
                                                      v1::RunBenchmarkResponse* response) {
  RequestContext& request_context = RequestContext::Of(context);
  request_context.record()->request_bytes = request->ByteSizeLong();
  if (absl::Status admitted = parts_.admission.Admit(request_context); !admitted.ok()) {
    return FinishNow(context, admitted);
  }
  const BenchmarkLimits limits = {options_.max_benchmark_repetitions, options_.max_tensor_bytes,
                                  parts_.executor.options().max_accepted_bytes};
  absl::StatusOr<std::unique_ptr<BenchmarkTask>> task =
      DecodeBenchmark(*request, parts_.store, request_context.tenant(), limits, parts_.regions);
  if (!task.ok()) return FinishNow(context, task.status());
  absl::Status supported = parts_.backend.Supports((*task)->problem, (*task)->inputs.options);
  if (!supported.ok()) return FinishNow(context, supported);
  return UnaryJob::Start(new BenchmarkCall(parts_.backend, parts_.store, parts_.metrics,
                                           parts_.executor, request_context, *std::move(task),
                                           *response, options_.max_call_time));
}

}  // namespace theria::server
