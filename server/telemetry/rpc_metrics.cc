#include "server/telemetry/rpc_metrics.h"

#include <mutex>

#include "prometheus/registry.h"

namespace theria::server {
namespace {

constexpr std::array<std::string_view, kRpcCodes> kCodeNames = {
    "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
    "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
    "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
    "DataLoss", "Unauthenticated"};
constexpr int kUnknown = 2;

const prometheus::Histogram::BucketBoundaries kSeconds = {
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2,
    0.1,  0.25, 0.5,    1.0,  2.5,  5.0,    10.0, 30.0, 60.0,   300.0};

prometheus::Labels MethodLabels(std::string_view full_method) {
  if (full_method.starts_with('/')) full_method.remove_prefix(1);
  const std::size_t slash = full_method.find('/');
  if (slash == std::string_view::npos) return {{"grpc_service", ""}, {"grpc_method", "unknown"}};
  return {{"grpc_service", std::string(full_method.substr(0, slash))},
          {"grpc_method", std::string(full_method.substr(slash + 1))}};
}

}  // namespace

std::string_view RpcCodeName(int code) {
  const bool is_known = code >= 0 && code < static_cast<int>(kRpcCodes);
  return kCodeNames.at(static_cast<std::size_t>(is_known ? code : kUnknown));
}

RpcMetrics::RpcMetrics(MetricRegistry& registry)
    : started_(prometheus::BuildCounter()
                   .Name("grpc_server_started_total")
                   .Help("RPCs started on the server.")
                   .Register(registry.families())),
      handled_(prometheus::BuildCounter()
                   .Name("grpc_server_handled_total")
                   .Help("RPCs completed on the server, by the status code sent.")
                   .Register(registry.families())),
      seconds_(prometheus::BuildHistogram()
                   .Name("grpc_server_handling_seconds")
                   .Help("Time from the arrival of an RPC to the sending of its status.")
                   .Register(registry.families())) {}

RpcMetrics::Method& RpcMetrics::ForMethod(std::string_view full_method) {
  {
    const std::shared_lock lock(mutex_);
    if (const auto found = methods_.find(full_method); found != methods_.end()) {
      return *found->second;
    }
  }
  const std::lock_guard lock(mutex_);
  std::unique_ptr<Method>& method = methods_[std::string(full_method)];
  if (method == nullptr) method.reset(new Method(*this, MethodLabels(full_method)));
  return *method;
}

RpcMetrics::Method::Method(RpcMetrics& metrics, const prometheus::Labels& labels)
    : metrics_(metrics),
      labels_(labels),
      started_(metrics.started_.Add(labels)),
      seconds_(metrics.seconds_.Add(labels, kSeconds)) {}

void RpcMetrics::Method::Handled(int code, absl::Duration time) {
  const bool is_known = code >= 0 && code < static_cast<int>(kRpcCodes);
  auto& slot = handled_.at(static_cast<std::size_t>(is_known ? code : kUnknown));
  prometheus::Counter* counter = slot.load(std::memory_order_acquire);
  if (counter == nullptr) {
    prometheus::Labels labels = labels_;
    labels["grpc_code"] = RpcCodeName(code);
    counter = &metrics_.handled_.Add(labels);
    slot.store(counter, std::memory_order_release);
  }
  counter->Increment();
  seconds_.Observe(absl::ToDoubleSeconds(time));
}

}  // namespace theria::server
