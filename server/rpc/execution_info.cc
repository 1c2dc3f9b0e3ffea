#include "server/rpc/execution_info.h"

#include "server/rpc/options_codec.h"

namespace theria::server {

void RecordExecution(const ComputeReport& report, RequestContext& context,
                     v1::ExecutionInfo& info) {
  context.record()->compute_time = report.compute_time;
  info.set_request_id(context.id());
  info.set_implementation(EncodeImplementation(report.implementation));
  info.set_kernel(report.kernel);
  info.set_device(report.device);
  info.set_queue_seconds(
      absl::ToDoubleSeconds(context.record()->queue_time.value_or(absl::ZeroDuration())));
  info.set_compute_seconds(absl::ToDoubleSeconds(report.compute_time));
}

}  // namespace theria::server
