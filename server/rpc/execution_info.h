#ifndef THERIA_SERVER_RPC_EXECUTION_INFO_H_
#define THERIA_SERVER_RPC_EXECUTION_INFO_H_

#include "kernels/api/backend.h"
#include "server/rpc/request_context.h"
#include "theria/v1/attention.pb.h"

namespace theria::server {

// Fills `info` from the backend's report and the request's context, whose compute_time it sets.
void RecordExecution(const ComputeReport& report, RequestContext& context, v1::ExecutionInfo& info);

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_EXECUTION_INFO_H_
