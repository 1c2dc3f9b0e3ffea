#ifndef THERIA_SERVER_RPC_SERVER_SERVICE_H_
#define THERIA_SERVER_RPC_SERVER_SERVICE_H_

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "kernels/api/backend.h"
#include "server/cache/shared_regions.h"
#include "server/cache/tensor_store.h"
#include "server/engine/executor.h"
#include "server/rpc/admission.h"
#include "server/telemetry/compute_metrics.h"
#include "theria/v1/server.grpc.pb.h"

// theria.v1.ServerService: what the server is, and how fast. Thread-safe.

namespace theria::server {

// What the service works with. All of it must outlive the grpc::Server.
struct ServerServiceParts {
  Backend& backend;
  TensorStore& store;
  Executor& executor;
  ComputeMetrics& metrics;
  const Admission& admission;
  SharedRegions* regions = nullptr;  // null: no memory is shared
};

struct ServerServiceOptions {
  std::string version;
  std::string commit;
  std::size_t max_message_bytes;
  std::size_t max_tensor_bytes;
  std::uint32_t max_benchmark_repetitions;
  absl::Duration max_call_time;
};

class ServerService final : public v1::ServerService::CallbackService {
 public:
  // The server's contexts are RequestContexts.
  ServerService(const ServerServiceParts& parts, ServerServiceOptions options);

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;
  grpc::ServerUnaryReactor* RunBenchmark(grpc::CallbackServerContext* context,
                                         const v1::RunBenchmarkRequest* request,
                                         v1::RunBenchmarkResponse* response) override;

 private:
  const ServerServiceParts parts_;
  const ServerServiceOptions options_;
  const absl::Duration started_;  // MonotonicNow() at the start
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_SERVER_SERVICE_H_
