#ifndef THERIA_SERVER_RPC_BENCHMARK_CALL_H_
#define THERIA_SERVER_RPC_BENCHMARK_CALL_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/api/backend.h"
#include "server/rpc/tensor_codec.h"
#include "server/rpc/unary_job.h"
#include "server/telemetry/compute_metrics.h"
#include "theria/v1/server.pb.h"

// One RunBenchmark: inputs of random numbers in the backend's memory, a repetition to warm up, then
// the repetitions that are timed by the backend's own clock.

namespace theria::server {

struct BenchmarkLimits {
  std::uint32_t max_repetitions;
  std::size_t max_tensor_bytes;
  std::size_t max_request_bytes;
};

// A request, decoded and validated; the tensors are without data, but for the mask.
struct BenchmarkTask {
  explicit BenchmarkTask(TensorDecoder decoder) : decoder(std::move(decoder)) {}

  TensorDecoder decoder;
  AttentionProblem problem;
  AttentionInputs inputs;
  std::uint32_t repetitions = 0;
  std::string shape;  // label of the gauges
  std::size_t bytes = 0;
};

// Errors: INVALID_ARGUMENT with FieldOf, FAILED_PRECONDITION for a missing mask.
absl::StatusOr<std::unique_ptr<BenchmarkTask>> DecodeBenchmark(
    const v1::RunBenchmarkRequest& request, TensorStore& store, const TenantId& tenant,
    const BenchmarkLimits& limits, SharedRegions* regions = nullptr);

class BenchmarkCall final : public UnaryJob {
 public:
  BenchmarkCall(Backend& backend, TensorStore& store, ComputeMetrics& metrics, Executor& executor,
                RequestContext& context, std::unique_ptr<BenchmarkTask> task,
                v1::RunBenchmarkResponse& response, absl::Duration max_call_time);

 private:
  absl::Status Answer() override;
  // Memory for every input and output of the operation; inputs filled.
  absl::Status Allocate(AttentionOutputs& outputs);
  absl::StatusOr<Buffer> AllocateOne(std::size_t size_bytes);
  void Publish(const ComputeReport& report, absl::Duration median);

  Backend& backend_;
  TensorStore& store_;
  ComputeMetrics& metrics_;
  const std::unique_ptr<BenchmarkTask> task_;
  v1::RunBenchmarkResponse& response_;
  std::vector<Buffer> buffers_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_BENCHMARK_CALL_H_
