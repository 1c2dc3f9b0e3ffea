#include "server/rpc/attention_service.h"

#include <memory>
#include <utility>
#include <vector>

#include "server/rpc/execution_info.h"
#include "server/rpc/request_context.h"
#include "server/rpc/unary_job.h"

namespace theria::server {
namespace {

using google::protobuf::Message;

class AttentionCall final : public UnaryJob {
 public:
  AttentionCall(const AttentionServiceParts& parts, const AttentionMethod& method,
                RequestContext& context, std::unique_ptr<AttentionTask> task, Message& response,
                absl::Duration max_call_time)
      : UnaryJob(parts.executor, context, task->demand, max_call_time),
        parts_(parts),
        method_(method),
        task_(std::move(task)),
        response_(response) {}

 private:
  struct Resident {
    v1::Tensor* wire;
    PendingTensor tensor;
  };

  absl::Status Answer() override {
    AttentionOutputs outputs;
    std::vector<Resident> residents;
    for (const PlannedOutput& planned : task_->outputs) {
      absl::StatusOr<MutableTensorView> view = Place(planned, residents);
      if (!view.ok()) return view.status();
      outputs.*planned.field.member = *view;
    }
    const absl::StatusOr<ComputeReport> report =
        parts_.backend.Run(task_->problem, task_->inputs, outputs, interrupt());
    if (!report.ok()) return report.status();
    parts_.metrics.ObserveCompute(task_->problem.operation, task_->problem.dtype,
                                  report->implementation, report->compute_time);
    for (Resident& resident : residents) {
      EncodeResident(std::move(resident.tensor).Commit(), *resident.wire);
    }
    RecordExecution(*report, context(), method_.MutableExecution(response_));
    return absl::OkStatus();
  }

  // Memory for one output: in the response, or in the store.
  absl::StatusOr<MutableTensorView> Place(const PlannedOutput& planned,
                                          std::vector<Resident>& residents) {
    auto& wire = static_cast<v1::Tensor&>(
        *response_.GetReflection()->MutableMessage(&response_, planned.wire));
    if (!planned.is_resident) return EncodeInline(planned.layout, wire);
    const MutableTensorView& layout = planned.layout;
    absl::StatusOr<PendingTensor> pending = parts_.store.Create(
        context().tenant(),
        TensorSpec{layout.dtype, {layout.shape.begin(), layout.shape.begin() + layout.rank}},
        task_->resident_ttl);
    if (!pending.ok()) return pending.status();
    MutableTensorView view = layout;
    view.data = pending->data();
    residents.push_back({&wire, *std::move(pending)});
    return view;
  }

  const AttentionServiceParts& parts_;
  const AttentionMethod& method_;
  const std::unique_ptr<AttentionTask> task_;
  Message& response_;
};

template <typename Request, typename Response>
AttentionMethod MethodOf(Operation operation) {
  return {operation, *Request::descriptor(), *Response::descriptor()};
}

}  // namespace

AttentionService::AttentionService(const AttentionServiceParts& parts,
                                   const AttentionLimits& limits, absl::Duration max_call_time)
    : parts_(parts),
      limits_(limits),
      max_call_time_(max_call_time),
      forward_(MethodOf<v1::ForwardRequest, v1::ForwardResponse>(Operation::kForward)),
      vjp_(MethodOf<v1::VjpRequest, v1::VjpResponse>(Operation::kVjp)),
      jvp_(MethodOf<v1::JvpRequest, v1::JvpResponse>(Operation::kJvp)),
      hvp_(MethodOf<v1::HvpRequest, v1::HvpResponse>(Operation::kHvp)) {}

grpc::ServerUnaryReactor* AttentionService::Handle(const AttentionMethod& method,
                                                   grpc::CallbackServerContext* context,
                                                   const Message& request, Message& response) {
  RequestContext& request_context = RequestContext::Of(context);
  request_context.request_bytes = request.ByteSizeLong();
  if (absl::Status admitted = parts_.admission.Admit(request_context); !admitted.ok()) {
    return FinishNow(context, admitted);
  }
  absl::StatusOr<std::unique_ptr<AttentionTask>> task =
      method.Decode(request, parts_.store, request_context.tenant(), limits_);
  if (!task.ok()) return FinishNow(context, task.status());
  absl::Status supported = parts_.backend.Supports((*task)->problem, (*task)->inputs.options);
  if (!supported.ok()) return FinishNow(context, supported);
  return UnaryJob::Start(new AttentionCall(parts_, method, request_context, *std::move(task),
                                           response, max_call_time_));
}

grpc::ServerUnaryReactor* AttentionService::Forward(grpc::CallbackServerContext* context,
                                                    const v1::ForwardRequest* request,
                                                    v1::ForwardResponse* response) {
  return Handle(forward_, context, *request, *response);
}

grpc::ServerUnaryReactor* AttentionService::Vjp(grpc::CallbackServerContext* context,
                                                const v1::VjpRequest* request,
                                                v1::VjpResponse* response) {
  return Handle(vjp_, context, *request, *response);
}

grpc::ServerUnaryReactor* AttentionService::Jvp(grpc::CallbackServerContext* context,
                                                const v1::JvpRequest* request,
                                                v1::JvpResponse* response) {
  return Handle(jvp_, context, *request, *response);
}

grpc::ServerUnaryReactor* AttentionService::Hvp(grpc::CallbackServerContext* context,
                                                const v1::HvpRequest* request,
                                                v1::HvpResponse* response) {
  return Handle(hvp_, context, *request, *response);
}

}  // namespace theria::server
