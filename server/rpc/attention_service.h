#ifndef THERIA_SERVER_RPC_ATTENTION_SERVICE_H_
#define THERIA_SERVER_RPC_ATTENTION_SERVICE_H_

#include "absl/time/time.h"
#include "kernels/api/backend.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/engine/executor.h"
#include "server/rpc/admission.h"
#include "server/rpc/attention_method.h"
#include "server/telemetry/compute_metrics.h"
#include "theria/v1/attention.grpc.pb.h"

// theria.v1.AttentionService on gRPC's callback API: decode, validate, submit to the executor, and
// answer from whichever thread computed. Inputs are read where they are, in the request's bytes, in
// the store or in shared memory; outputs are written where they stay, or where the transport sends
// them from. Thread-safe.

namespace theria::server {

// What the service works with. All of it must outlive the grpc::Server.
struct AttentionServiceParts {
  Backend& backend;
  TensorStore& store;
  Executor& executor;
  ComputeMetrics& metrics;
  const Admission& admission;
  SharedRegions* regions = nullptr;  // null: no memory is shared
};

namespace internal {
using RawAttentionService = v1::AttentionService::WithRawCallbackMethod_Forward<
    v1::AttentionService::WithRawCallbackMethod_Vjp<v1::AttentionService::WithRawCallbackMethod_Jvp<
        v1::AttentionService::WithRawCallbackMethod_Hvp<v1::AttentionService::Service>>>>;
}  // namespace internal

class AttentionService final : public internal::RawAttentionService {
 public:
  // A call without a deadline of its own, or with a later one, ends after `max_call_time`.
  // The server's contexts are RequestContexts.
  AttentionService(const AttentionServiceParts& parts, const AttentionLimits& limits,
                   absl::Duration max_call_time);

  grpc::ServerUnaryReactor* Forward(grpc::CallbackServerContext* context,
                                    const grpc::ByteBuffer* request,
                                    grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Vjp(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Jvp(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override;
  grpc::ServerUnaryReactor* Hvp(grpc::CallbackServerContext* context,
                                const grpc::ByteBuffer* request,
                                grpc::ByteBuffer* response) override;

 private:
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* Handle(const AttentionMethod& method,
                                   grpc::CallbackServerContext* context,
                                   const grpc::ByteBuffer& request, grpc::ByteBuffer* response);

  const AttentionServiceParts parts_;
  const AttentionLimits limits_;
  const absl::Duration max_call_time_;
  const AttentionMethod forward_, vjp_, jvp_, hvp_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_ATTENTION_SERVICE_H_
