#ifndef THERIA_SERVER_TELEMETRY_RPC_METRICS_H_
#define THERIA_SERVER_TELEMETRY_RPC_METRICS_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <string_view>

#include "absl/time/time.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/histogram.h"
#include "server/telemetry/metric_registry.h"

// RPC metrics under the names that gRPC services share:
//
//   grpc_server_started_total{grpc_service,grpc_method}
//   grpc_server_handled_total{grpc_service,grpc_method,grpc_code}
//   grpc_server_handling_seconds{grpc_service,grpc_method}    histogram
//
// Thread-safe.

namespace theria::server {

inline constexpr std::size_t kRpcCodes = 17;

// "OK", "Canceled" ...: the names that go with grpc_server_handled_total elsewhere.
std::string_view RpcCodeName(int code);

class RpcMetrics {
 public:
  class Method {
   public:
    void Started() { started_.Increment(); }
    // `code` as gRPC numbers them; others count as Unknown.
    void Handled(int code, absl::Duration time);

   private:
    friend class RpcMetrics;
    Method(RpcMetrics& metrics, const prometheus::Labels& labels);

    RpcMetrics& metrics_;
    const prometheus::Labels labels_;
    prometheus::Counter& started_;
    prometheus::Histogram& seconds_;
    std::array<std::atomic<prometheus::Counter*>, kRpcCodes> handled_{};  // made at first use
  };

  // The registry must outlive this.
  explicit RpcMetrics(MetricRegistry& registry);

  // `full_method` is a registered "/package.Service/Method"; lives as long as this.
  Method& ForMethod(std::string_view full_method);

 private:
  prometheus::Family<prometheus::Counter>& started_;
  prometheus::Family<prometheus::Counter>& handled_;
  prometheus::Family<prometheus::Histogram>& seconds_;
  std::shared_mutex mutex_;
  std::map<std::string, std::unique_ptr<Method>, std::less<>> methods_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_RPC_METRICS_H_
