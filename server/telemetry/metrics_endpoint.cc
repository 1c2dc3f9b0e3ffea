#include "server/telemetry/metrics_endpoint.h"

#include <exception>
#include <utility>
#include <vector>

#include "kernels/api/message.h"
#include "prometheus/exposer.h"

namespace theria::server {

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const std::string& address, const MetricRegistry& registry) {
  // The HTTP server reports a port that it cannot have by throwing.
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(address, /*num_threads=*/2);
    for (const auto& collectable : registry.collectables()) {
      exposer->RegisterCollectable(collectable);
    }
    std::string bound =
        Message(address.substr(0, address.rfind(':')), ":", exposer->GetListeningPorts().front());
    return std::unique_ptr<MetricsEndpoint>(
        new MetricsEndpoint(std::move(exposer), std::move(bound)));
  } catch (const std::exception& error) {
    return absl::UnavailableError(Message("cannot serve metrics on ", address, ": ", error.what()));
  }
}

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer, std::string address)
    : exposer_(std::move(exposer)), address_(std::move(address)) {}

MetricsEndpoint::~MetricsEndpoint() = default;

}  // namespace theria::server
