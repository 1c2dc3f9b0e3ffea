#include "server/rpc/rpc_interceptor.h"

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "grpcpp/generic/async_generic_service.h"
#include "server/cache/monotonic_clock.h"
#include "server/rpc/request_context.h"
#include "server/telemetry/log.h"
#include "server/telemetry/trace_context.h"

namespace theria::server {
namespace {

using grpc::experimental::InterceptionHookPoints;
using grpc::experimental::InterceptorBatchMethods;
using grpc::experimental::ServerRpcInfo;

// The method's path, which lives as long as the server. Calls of methods that nobody registered
// share one name: a client must not be able to make new labels.
const char* MethodOf(ServerRpcInfo& info) {
  const bool is_registered =
      dynamic_cast<grpc::GenericCallbackServerContext*>(info.server_context()) == nullptr;
  return is_registered ? info.method() : "unknown";
}

std::optional<TraceContext> TraceOf(
    const std::multimap<grpc::string_ref, grpc::string_ref>& metadata) {
  const auto found = metadata.find("traceparent");
  if (found == metadata.end()) return std::nullopt;
  return ParseTraceparent({found->second.data(), found->second.size()});
}

class RpcInterceptor : public grpc::experimental::Interceptor {
 public:
  RpcInterceptor(ServerRpcInfo* info, RpcMetrics& metrics, DrainGate& gate)
      : type_(info->type()),
        method_(MethodOf(*info)),
        context_(dynamic_cast<RequestContext*>(info->server_context())),
        record_(context_ != nullptr ? context_->record() : nullptr),
        id_(context_ != nullptr ? context_->id() : NewRequestId()),
        peer_(info->server_context()->peer()),
        metrics_(metrics.ForMethod(method_)),
        // Watches and reflection streams last as long as their clients; a drain ends them.
        gate_(std::string_view(method_).starts_with("/theria.") ? &gate : nullptr) {
    metrics_.Started();
    if (gate_ != nullptr) gate_->Enter();
    info->server_context()->AddInitialMetadata("theria-request-id", id_);
  }

  ~RpcInterceptor() override {
    // A call that broke off without a status was cancelled, also if that kept its message away.
    if (!is_handled_) {
      Handled(is_malformed_ && !is_cancelled_ ? grpc::StatusCode::INVALID_ARGUMENT
                                              : grpc::StatusCode::CANCELLED);
    }
    WriteLogLine();
    if (gate_ != nullptr) gate_->Leave();
  }

  void Intercept(InterceptorBatchMethods* batch) override {
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      trace_ = TraceOf(*batch->GetRecvInitialMetadata());
    }
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE) &&
        type_ == ServerRpcInfo::Type::UNARY && batch->GetRecvMessage() == nullptr) {
      is_malformed_ = true;
    }
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_MESSAGE)) {
      if (const grpc::ByteBuffer* bytes = batch->GetSerializedSendMessage(); bytes != nullptr) {
        response_bytes_ += bytes->Length();
      }
    }
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      // gRPC would answer UNIMPLEMENTED without a message.
      if (is_malformed_) {
        batch->ModifySendStatus({grpc::StatusCode::INVALID_ARGUMENT,
                                 "the request's bytes are not a message of this method"});
      } else {
        Handled(batch->GetSendStatus().error_code());
      }
    }
    // A synchronous service's context cannot be asked here.
    if (batch->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_CLOSE) &&
        context_ != nullptr) {
      is_cancelled_ = context_->IsCancelled();
    }
    batch->Proceed();
  }

 private:
  void Handled(grpc::StatusCode code) {
    is_handled_ = true;
    code_ = code;
    time_ = MonotonicNow() - start_;
    metrics_.Handled(code, time_);
  }

  void WriteLogLine() const {
    LogLine line(spdlog::level::info, "rpc");
    line.Add("id", id_).Add("method", method_).Add("code", RpcCodeName(code_));
    line.Add("peer", peer_).Add("seconds", absl::ToDoubleSeconds(time_));
    if (record_ != nullptr) {
      if (record_->account != nullptr && !record_->account->tenant().name.empty()) {
        line.Add("tenant", record_->account->tenant().name);
      }
      line.Add("request_bytes", record_->request_bytes);
      if (record_->queue_time.has_value()) {
        line.Add("queue_seconds", absl::ToDoubleSeconds(*record_->queue_time));
      }
      if (record_->compute_time.has_value()) {
        line.Add("compute_seconds", absl::ToDoubleSeconds(*record_->compute_time));
      }
    }
    line.Add("response_bytes", response_bytes_);
    if (trace_.has_value()) {
      line.Add("trace_id", trace_->trace_id).Add("parent_id", trace_->parent_id);
      line.Add("sampled", trace_->is_sampled ? "true" : "false");
    }
  }

  const ServerRpcInfo::Type type_;
  const char* const method_;
  // Null for RPCs of gRPC's synchronous services. Not the context itself: this object is destroyed
  // when only gRPC's own part of that is left.
  const RequestContext* const context_;
  const std::shared_ptr<const RequestRecord> record_;
  const std::string id_;
  const std::string peer_;
  RpcMetrics::Method& metrics_;
  DrainGate* const gate_;
  const absl::Duration start_ = MonotonicNow();
  std::optional<TraceContext> trace_;
  absl::Duration time_;
  std::uint64_t response_bytes_ = 0;
  grpc::StatusCode code_ = grpc::StatusCode::UNKNOWN;
  bool is_malformed_ = false;  // or it was cancelled before its message came
  bool is_cancelled_ = false;
  bool is_handled_ = false;
};

class RpcInterceptorFactory : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  RpcInterceptorFactory(RpcMetrics& metrics, DrainGate& gate) : metrics_(metrics), gate_(gate) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(ServerRpcInfo* info) override {
    return new RpcInterceptor(info, metrics_, gate_);
  }

 private:
  RpcMetrics& metrics_;
  DrainGate& gate_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeRpcInterceptorFactory(
    RpcMetrics& metrics, DrainGate& gate) {
  return std::make_unique<RpcInterceptorFactory>(metrics, gate);
}

}  // namespace theria::server
