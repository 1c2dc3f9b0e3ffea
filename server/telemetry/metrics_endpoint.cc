#include "server/telemetry/metrics_endpoint.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/api/message.h"
#include "prometheus/exposer.h"

namespace theria::server {
namespace {

// getaddrinfo's answer for HOST:PORT; `*found` is the caller's to free if it is 0.
int Resolve(const std::string& address, addrinfo** found) {
  const std::size_t colon = address.rfind(':');
  std::string host = address.substr(0, colon);
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  return getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, found);
}

// What the system says to a listener at HOST:PORT, or nothing if it takes one: the HTTP server does
// not tell.
std::string WhyNot(const std::string& address) {
  if (address.find(':') == std::string::npos) return "";
  addrinfo* found = nullptr;
  const int resolved = Resolve(address, &found);
  if (resolved != 0) return gai_strerror(resolved);
  const int listener = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int reuse = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &reuse, sizeof(reuse));
  const bool is_free = bind(listener, found->ai_addr, found->ai_addrlen) == 0;
  const int error = errno;
  if (listener >= 0) close(listener);
  freeaddrinfo(found);
  return is_free ? "" : std::generic_category().message(error);
}

// Connects to HOST:PORT every few milliseconds, until destroyed. civetweb before 1.17 looks whether
// it is to stop when a connection comes, and else every two seconds
// (https://github.com/civetweb/civetweb/issues/1163).
class Waker {
 public:
  explicit Waker(const std::string& address)
      : thread_([address](const std::stop_token& stop) {
          addrinfo* found = nullptr;
          if (Resolve(address, &found) != 0) return;
          while (!stop.stop_requested()) {
            const int caller = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
            // That it fails once nobody listens is as good.
            static_cast<void>(connect(caller, found->ai_addr, found->ai_addrlen));
            if (caller >= 0) close(caller);
            std::this_thread::sleep_for(std::chrono::milliseconds(5));
          }
          freeaddrinfo(found);
        }) {}

 private:
  std::jthread thread_;
};

}  // namespace

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
    const std::string reason = WhyNot(address);
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
