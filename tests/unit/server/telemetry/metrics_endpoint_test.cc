#include "server/telemetry/metrics_endpoint.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/telemetry/process_metrics.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

// The answer to GET /metrics, headers and all; empty if nobody listens.
std::string Scrape(const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.find(':') + 1))));
  inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
  std::string answer;
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) == 0) {
    const std::string request = "GET /metrics HTTP/1.0\r\n\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char chunk[4096];
    for (ssize_t n = 0; (n = read(fd, chunk, sizeof(chunk))) > 0;) {
      answer.append(chunk, static_cast<std::size_t>(n));
    }
  }
  close(fd);
  return answer;
}

TEST(MetricsEndpointTest, ServesFamiliesAndSources) {
  MetricRegistry registry;
  AddProcessMetrics(registry, {"1", "", "cpu"});
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  const std::string address = (*endpoint)->address();
  const std::string answer = Scrape(address);
  EXPECT_THAT(answer, HasSubstr("200 OK"));
  EXPECT_THAT(answer, HasSubstr("process_resident_memory_bytes "));
  endpoint->reset();
  EXPECT_EQ(Scrape(address), "");
}

TEST(MetricsEndpointTest, EndsWithoutWaitingForTheHttpServersPoll) {
  // One that has just begun to poll would wait for almost two seconds.
  MetricRegistry registry;
  absl::Duration longest;
  for (const char* address : {"127.0.0.1:0", "localhost:0", "0.0.0.0:0", "127.0.0.1:0"}) {
    auto endpoint = MetricsEndpoint::Start(address, registry);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    Scrape((*endpoint)->address());
    const absl::Time start = absl::Now();
    endpoint->reset();
    longest = std::max(longest, absl::Now() - start);
  }
  EXPECT_LT(longest, absl::Seconds(1));
}

TEST(MetricsEndpointTest, TellsThatThePortIsInUse) {
  MetricRegistry registry;
  auto first = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = MetricsEndpoint::Start((*first)->address(), registry);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.status().message(), "--metrics-listen is " + (*first)->address() +
                                           ", which cannot be: Address already in use");
}

TEST(MetricsEndpointTest, RefusesWhatIsNoAddress) {
  MetricRegistry registry;
  EXPECT_EQ(MetricsEndpoint::Start("nowhere", registry).status().code(),
            absl::StatusCode::kUnavailable);
}

}  // namespace
}  // namespace theria::server
