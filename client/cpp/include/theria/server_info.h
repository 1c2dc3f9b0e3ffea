#ifndef THERIA_SERVER_INFO_H_
#define THERIA_SERVER_INFO_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "theria/attention.h"

// Information about a server, and benchmarks on its device. Plain values.

namespace theria::client {

struct DeviceInfo {
  std::string id;    // "cpu", "cuda:0"
  std::string name;  // the vendor's name
  std::size_t memory_bytes = 0;
  std::string architecture;  // "x86-64-v4", "sm_90"
};

// The problems that one kind of kernel supports. The bounds apply to head_dim and head_dim_v.
struct KernelSupport {
  Operation operation = Operation::kForward;
  Implementation implementation = Implementation::kReference;
  DType dtype = DType::kFloat32;
  std::int64_t min_head_dim = 0;
  std::int64_t max_head_dim = 0;
  std::int64_t head_dim_multiple = 0;

  bool Covers(std::int64_t head_dim) const {
    return head_dim >= min_head_dim && head_dim <= max_head_dim &&
           (head_dim_multiple <= 1 || head_dim % head_dim_multiple == 0);
  }
};

struct ServerLimits {
  std::size_t max_message_bytes = 0;  // of one request or response
  std::size_t max_tensor_bytes = 0;   // of one resident tensor
  std::size_t max_queued_requests = 0;
  std::size_t max_queued_bytes = 0;  // of inputs and outputs of accepted requests
  absl::Duration default_ttl;
  absl::Duration max_ttl;
  absl::Duration max_pin;
  std::uint32_t max_benchmark_repetitions = 0;
};

struct StoreInfo {
  std::size_t capacity_bytes = 0;
  std::size_t used_bytes = 0;
  std::size_t entries = 0;
};

struct ServerInfo {
  std::string version;  // semantic version of the build
  std::string commit;   // source revision; empty if unknown
  std::string backend;  // "cpu", "cuda"
  std::vector<DeviceInfo> devices;
  std::vector<KernelSupport> kernels;
  ServerLimits limits;
  StoreInfo store;
  absl::Duration uptime;
  bool shared_memory = false;
};

// A benchmark that the server runs on random data.
struct BenchmarkRequest {
  Operation operation = Operation::kForward;
  DType dtype = DType::kFloat32;
  std::int64_t batch = 1;
  std::int64_t heads_q = 1;
  std::int64_t heads_kv = 0;  // 0: equal to heads_q
  std::int64_t seq_q = 1;
  std::int64_t seq_kv = 0;  // 0: equal to seq_q
  std::int64_t head_dim = 1;
  std::int64_t head_dim_v = 0;    // 0: equal to head_dim
  AttentionOptions options;       // without a mask
  std::uint32_t repetitions = 0;  // 0: the server's default
  std::string preset;             // label of the server's gauges, at most 64 characters
};

struct BenchmarkResult {
  std::vector<absl::Duration> times;  // of each repetition, by the device's clock
  absl::Duration median_time;
  double flops = 0.0;             // of the matrix products in the definition, for one repetition
  double flops_per_second = 0.0;  // at the median
  std::size_t bytes = 0;          // of inputs and outputs
  ExecutionInfo execution;
};

}  // namespace theria::client

#endif  // THERIA_SERVER_INFO_H_
