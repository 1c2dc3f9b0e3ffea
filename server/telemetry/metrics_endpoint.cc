#include "server/telemetry/metrics_endpoint.h"

#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <exception>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/api/message.h"
#include "prometheus/exposer.h"
#include "server/telemetry/tcp_address.h"

namespace theria::server {
namespace {

// A connection that is silent holds a thread so long; the HTTP server's own limit is 30 s.
constexpr char kRequestTimeoutMs[] = "1000";
constexpr char kThreads[] = "16";

// Connects to HOST:PORT every few milliseconds, until destroyed. civetweb before 1.17 looks whether
// it is to stop when a connection comes, and else every two seconds
// (https://github.com/civetweb/civetweb/issues/1163).
class Waker {
 public:
  explicit Waker(const std::string& address)
      : thread_([address](const std::stop_token& stop) {
          int error = 0;
          const AddressList found = Resolve(address, &error);
          if (found == nullptr) return;
          while (!stop.stop_requested()) {
            const int caller = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            // That it fails once nobody listens is as good.
            static_cast<void>(connect(caller, found->ai_addr, found->ai_addrlen));
            if (caller >= 0) close(caller);
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
          }
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsEndpoint>> MetricsEndpoint::Start(
    const std::string& address, const MetricRegistry& registry) {
  // The HTTP server reports a port that it cannot have by throwing.
  try {
    auto exposer = std::make_unique<prometheus::Exposer>(
        std::vector<std::string>{"listening_ports", address, "num_threads", kThreads,
                                 "request_timeout_ms", kRequestTimeoutMs});
    for (const auto& collectable : registry.collectables()) {
      exposer->RegisterCollectable(collectable);
    }
    std::string bound =
        Message(address.substr(0, address.rfind(':')), ":", exposer->GetListeningPorts().front());
    return std::unique_ptr<MetricsEndpoint>(
        new MetricsEndpoint(std::move(exposer), std::move(bound)));
  } catch (const std::exception& error) {
    const std::string reason = ReasonNotToListen(address);
    return absl::UnavailableError(Message("--metrics-listen is ", address, ", which cannot be: ",
                                          reason.empty() ? error.what() : reason));
  }
}

MetricsEndpoint::MetricsEndpoint(std::unique_ptr<prometheus::Exposer> exposer, std::string address)
    : exposer_(std::move(exposer)), address_(std::move(address)) {}

MetricsEndpoint::~MetricsEndpoint() {
  const Waker waker(address_);
  exposer_.reset();
}

}  // namespace theria::server
