#ifndef THERIA_SERVER_TELEMETRY_METRICS_ENDPOINT_H_
#define THERIA_SERVER_TELEMETRY_METRICS_ENDPOINT_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/telemetry/metric_registry.h"

namespace prometheus {
class Exposer;
}

// Serves a registry over HTTP at /metrics, on threads of its own, until destroyed.

namespace theria::server {

class MetricsEndpoint {
 public:
  // `address` is HOST:PORT; port 0 takes a free one. The registry must outlive the endpoint.
  // Errors: UNAVAILABLE, naming the address (in use, not ours, malformed).
  static absl::StatusOr<std::unique_ptr<MetricsEndpoint>> Start(const std::string& address,
                                                                const MetricRegistry& registry);
  ~MetricsEndpoint();
  MetricsEndpoint(const MetricsEndpoint&) = delete;
  MetricsEndpoint& operator=(const MetricsEndpoint&) = delete;

  // HOST:PORT with the port that was chosen.
  const std::string& address() const { return address_; }

 private:
  MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer, std::string address);
  std::unique_ptr<prometheus::Exposer> exposer_;
  const std::string address_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_TELEMETRY_METRICS_ENDPOINT_H_
