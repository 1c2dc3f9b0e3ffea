#include "server/rpc/attention_service.h"

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "server/cache/relief.h"
#include "server/rpc/coalesce_key.h"
#include "server/rpc/device_staging.h"
#include "server/rpc/execution_info.h"
#include "server/rpc/inline_payloads.h"
#include "server/rpc/request_context.h"
#include "server/rpc/response_codec.h"
#include "server/rpc/unary_job.h"

namespace theria::server {
namespace {

using google::protobuf::Message;

// A request, and the bytes that it left where they came.
struct Request {
  explicit Request(const grpc::ByteBuffer& received) : bytes(received) {}

  grpc::ByteBuffer bytes;
  std::unique_ptr<Message> message;
  InlinePayloads payloads;
};

class AttentionCall final : public UnaryJob {
 public:
  AttentionCall(const AttentionServiceParts& parts, const AttentionMethod& method,
                RequestContext& context, std::unique_ptr<Request> request,
                std::unique_ptr<AttentionTask> task, std::unique_ptr<Message> response,
                grpc::ByteBuffer* encoded, absl::Duration max_call_time)
      : UnaryJob(parts.executor, context, task->demand, max_call_time, CoalesceKey(*task)),
        parts_(parts),
        method_(method),
        request_(std::move(request)),
        response_(std::move(response)),
        encoded_(encoded),
        task_(std::move(task)),
        staging_(std::in_place, parts.store, context.tenant()) {}

 private:
  struct Resident {
    v1::Tensor* wire;
    PendingTensor tensor;
  };

  absl::Status Answer() override {
    if (absl::Status placed = PlaceTensors(); !placed.ok()) return placed;
    return Complete(Compute());
  }

  std::vector<absl::Status> AnswerTogether(absl::Span<UnaryJob* const> together) override {
    std::vector<absl::Status> statuses;
    std::vector<AttentionCall*> placed;
    std::vector<Computation> computations;
    for (UnaryJob* job : together) {
      auto* const call = static_cast<AttentionCall*>(job);
      statuses.push_back(call->PlaceTensors());
      if (!statuses.back().ok()) continue;
      placed.push_back(call);
      computations.push_back({&call->task_->inputs, &call->outputs_, &call->interrupt()});
    }
    parts_.backend.RunTogether(task_->problem, absl::MakeSpan(computations));
    for (std::size_t i = 0, done = 0; i < together.size(); ++i) {
      if (!statuses[i].ok()) continue;
      absl::StatusOr<ComputeReport>& report = computations[done].report;
      AttentionCall& call = *placed[done];
      ++done;
      if (absl::IsResourceExhausted(report.status())) report = call.Compute();
      statuses[i] = call.Complete(report);
    }
    return statuses;
  }

  void Release() override {
    residents_.clear();
    staging_.reset();
    task_.reset();
  }

  // Memory for the outputs and for inputs that came in pieces; where the backend's memory is not
  // the host's, all that lies in the request or goes into the response gets its place there.
  absl::Status PlaceTensors() {
    for (const PlannedOutput& planned : task_->outputs) {
      absl::StatusOr<MutableTensorView> view = Place(planned);
      if (!view.ok()) return view.status();
      outputs_.*planned.field.member = *view;
    }
    if (parts_.store.memory().host_accessible()) return task_->GatherInputs();
    task_->StageInputs(*staging_);
    for (const PlannedOutput& planned : task_->outputs) {
      if (!IsOnDevice(planned)) staging_->AddOutput(*(outputs_.*planned.field.member));
    }
    return staging_->Upload();
  }

  absl::StatusOr<ComputeReport> Compute() {
    return WithRelief(parts_.store, context().tenant(), task_->demand.bytes, [&] {
      return parts_.backend.Run(task_->problem, task_->inputs, outputs_, interrupt());
    });
  }

  // The outputs are written: makes the resident ones readable and fills the response's rest.
  absl::Status Complete(const absl::StatusOr<ComputeReport>& report) {
    if (!report.ok()) return report.status();
    if (absl::Status downloaded = staging_->Download(); !downloaded.ok()) return downloaded;
    parts_.metrics.ObserveCompute(task_->problem.operation, task_->problem.dtype,
                                  report->implementation, report->compute_time);
    for (Resident& resident : residents_) {
      EncodeResident(std::move(resident.tensor).Commit(), *resident.wire);
    }
    RecordExecution(*report, context(), method_.MutableExecution(*response_));
    *encoded_ = EncodeResponse(*response_);
    return absl::OkStatus();
  }

  bool IsOnDevice(const PlannedOutput& planned) const {
    return planned.mode == v1::RESIDENT ||
           (planned.mode == v1::SHARED && task_->target.region->is_on_device());
  }

  // Memory for one output: in the response, in the store, or where the client wants it.
  absl::StatusOr<MutableTensorView> Place(const PlannedOutput& planned) {
    auto& wire = static_cast<v1::Tensor&>(
        *response_->GetReflection()->MutableMessage(response_.get(), planned.wire));
    const MutableTensorView& layout = planned.layout;
    if (planned.mode == v1::INLINE) return EncodeInline(layout, wire);
    if (planned.mode == v1::SHARED) {
      v1::SharedMemoryRef part;
      part.set_offset_bytes(planned.offset_bytes);
      part.set_size_bytes(layout.SizeBytes());
      EncodeShared(layout, part, wire);
      return layout;
    }
    absl::StatusOr<PendingTensor> pending = parts_.store.Create(
        context().tenant(),
        TensorSpec{layout.dtype, {layout.shape.begin(), layout.shape.begin() + layout.rank}},
        task_->resident_ttl);
    if (!pending.ok()) return pending.status();
    MutableTensorView view = layout;
    view.data = pending->data();
    residents_.push_back({&wire, *std::move(pending)});
    return view;
  }

  const AttentionServiceParts& parts_;
  const AttentionMethod& method_;
  const std::unique_ptr<Request> request_;  // which the task reads
  const std::unique_ptr<Message> response_;
  grpc::ByteBuffer* const encoded_;
  std::unique_ptr<AttentionTask> task_;
  AttentionOutputs outputs_;
  std::vector<Resident> residents_;
  std::optional<DeviceStaging>
      staging_;  // of no use where the host can access the backend's memory
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

template <typename RequestMessage, typename ResponseMessage>
grpc::ServerUnaryReactor* AttentionService::Handle(const AttentionMethod& method,
                                                   grpc::CallbackServerContext* context,
                                                   const grpc::ByteBuffer& request,
                                                   grpc::ByteBuffer* response) {
  RequestContext& request_context = RequestContext::Of(context);
  request_context.record()->request_bytes = request.Length();
  if (!request.Valid()) {
    return FinishNow(context, absl::CancelledError("the call broke off before its request came"));
  }
  if (absl::Status admitted = parts_.admission.Admit(request_context); !admitted.ok()) {
    return FinishNow(context, admitted);
  }
  auto parsed = std::make_unique<Request>(request);
  parsed->message = std::make_unique<RequestMessage>();
  if (!ParseRequest(parsed->bytes, *parsed->message, parsed->payloads)) {
    return FinishNow(context, absl::InvalidArgumentError(
                                  "the request's bytes are not a message of this method"));
  }
  absl::StatusOr<std::unique_ptr<AttentionTask>> task =
      method.Decode(*parsed->message, parts_.store, request_context.tenant(), limits_,
                    parts_.regions, &parsed->payloads);
  if (!task.ok()) return FinishNow(context, task.status());
  absl::Status supported = parts_.backend.Supports((*task)->problem, (*task)->inputs.options);
  if (!supported.ok()) return FinishNow(context, supported);
  return UnaryJob::Start(new AttentionCall(parts_, method, request_context, std::move(parsed),
                                           *std::move(task), std::make_unique<ResponseMessage>(),
                                           response, max_call_time_));
}

grpc::ServerUnaryReactor* AttentionService::Forward(grpc::CallbackServerContext* context,
                                                    const grpc::ByteBuffer* request,
                                                    grpc::ByteBuffer* response) {
  return Handle<v1::ForwardRequest, v1::ForwardResponse>(forward_, context, *request, response);
}

grpc::ServerUnaryReactor* AttentionService::Vjp(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  return Handle<v1::VjpRequest, v1::VjpResponse>(vjp_, context, *request, response);
}

grpc::ServerUnaryReactor* AttentionService::Jvp(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  return Handle<v1::JvpRequest, v1::JvpResponse>(jvp_, context, *request, response);
}

grpc::ServerUnaryReactor* AttentionService::Hvp(grpc::CallbackServerContext* context,
                                                const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  return Handle<v1::HvpRequest, v1::HvpResponse>(hvp_, context, *request, response);
}

}  // namespace theria::server
