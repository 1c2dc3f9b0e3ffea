#include <unistd.h>

#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "tests/unit/client/cpp/black_hole.h"
#include "theria/client.h"
#include "theria/error_details.h"
#include "theria/v1/attention.grpc.pb.h"
#include "theria/v1/server.grpc.pb.h"

// A Client over a real channel to a server in the same process.

namespace theria::client {
namespace {

using testing::HasSubstr;

class FakeServerService : public v1::ServerService::Service {
 public:
  grpc::Status GetServerInfo(grpc::ServerContext* context, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse*) override {
    absl::MutexLock lock(&mutex_);
    peers_.insert(context->peer());
    return grpc::Status::OK;
  }

  std::set<std::string> peers() const {
    absl::MutexLock lock(&mutex_);
    return peers_;
  }

 private:
  mutable absl::Mutex mutex_;
  std::set<std::string> peers_;
};

// Returns q as o; asked to be slow, waits for the client to give up.
class EchoService : public v1::AttentionService::Service {
 public:
  grpc::Status Forward(grpc::ServerContext*, const v1::ForwardRequest* request,
                       v1::ForwardResponse* response) override {
    *response->mutable_o() = request->q();
    return grpc::Status::OK;
  }
  grpc::Status Vjp(grpc::ServerContext* context, const v1::VjpRequest*, v1::VjpResponse*) override {
    while (!context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return grpc::Status::CANCELLED;
  }
};

class ConnectTest : public testing::Test {
 protected:
  void Start(const std::string& address) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port_);
    builder.SetMaxReceiveMessageSize(-1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS,
                               static_cast<int>(absl::ToInt64Milliseconds(min_ping_interval_)));
    builder.RegisterService(&server_service_);
    builder.RegisterService(&echo_);
    server_ = builder.BuildAndStart();
    ASSERT_NE(server_, nullptr);
  }

  void Stop() {
    server_->Shutdown();
    server_.reset();
  }

  std::string target() const { return "127.0.0.1:" + std::to_string(port_); }

  int port_ = 0;
  absl::Duration min_ping_interval_ = absl::Minutes(5);  // gRPC's default
  FakeServerService server_service_;
  EchoService echo_;
  std::unique_ptr<grpc::Server> server_;
};

TEST_F(ConnectTest, EachClientHasItsOwnConnectionUnlessAsked) {
  Start("127.0.0.1:0");
  Client a(target());
  Client b(target());
  ASSERT_TRUE(a.GetServerInfo().ok());
  ASSERT_TRUE(b.GetServerInfo().ok());
  EXPECT_EQ(server_service_.peers().size(), 2u);
  Client c(target(), {.share_connection = true});
  Client d(target(), {.share_connection = true});
  ASSERT_TRUE(c.GetServerInfo().ok());
  ASSERT_TRUE(d.GetServerInfo().ok());
  EXPECT_EQ(server_service_.peers().size(), 3u);
}

// gRPC's own limit is 4 MiB.
TEST_F(ConnectTest, LargeMessagesPassBothWays) {
  Start("127.0.0.1:0");
  Client client(target());
  const Tensor q = Tensor::Zeros(DType::kFloat32, {6 << 20});
  const absl::StatusOr<AttentionResult> result = client.Forward({.q = q, .k = q, .v = q});
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->o.local().size_bytes(), q.size_bytes());
}

TEST_F(ConnectTest, SurvivesARestart) {
  const std::string address = "unix:/tmp/theria_connect_test_" + std::to_string(getpid());
  EXPECT_TRUE(absl::IsUnavailable(
      Client(address, {.retry = {.max_attempts = 2}}).GetServerInfo().status()));
  Client client(address, {.retry = {.max_attempts = 1000}});
  Start(address);
  EXPECT_TRUE(client.GetServerInfo().ok());
  Stop();
  std::thread restart([&] {
    absl::SleepFor(absl::Milliseconds(150));
    Start(address);
  });
  EXPECT_TRUE(client.GetServerInfo().ok());  // tries again until the server is there
  restart.join();
}

TEST_F(ConnectTest, TheDeadlineEndsACall) {
  Start("127.0.0.1:0");
  Client client(target());
  const Tensor q = Tensor::Zeros(DType::kFloat32, {1});
  const absl::StatusOr<AttentionResult> result =
      client.Vjp({.q = q}, {.timeout = absl::Milliseconds(100)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(result.status())) << result.status();
}

// Pings once a second, and waits a second for the answer.
const KeepaliveOptions kEverySecond = {.interval = absl::Seconds(1), .timeout = absl::Seconds(1)};

TEST_F(ConnectTest, KeepaliveEndsACallOverADeadConnection) {
  Start("127.0.0.1:0");
  BlackHole proxy(port_);
  Client client(proxy.target(), {.retry = {.max_attempts = 1}, .keepalive = kEverySecond});
  ASSERT_TRUE(client.GetServerInfo().ok());
  proxy.StopForwarding();
  const absl::Time start = absl::Now();
  const Tensor q = Tensor::Zeros(DType::kFloat32, {1});
  const absl::Status status = client.Vjp({.q = q}, {.timeout = absl::Seconds(30)}).status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(proxy.target() + " is dead"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
}

TEST_F(ConnectTest, KeepaliveLeavesALongCallAlone) {
  min_ping_interval_ = absl::Milliseconds(500);
  Start("127.0.0.1:0");
  Client client(target(), {.retry = {.max_attempts = 1}, .keepalive = kEverySecond});
  const Tensor q = Tensor::Zeros(DType::kFloat32, {1});
  const absl::Status status = client.Vjp({.q = q}, {.timeout = absl::Seconds(5)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
}

TEST_F(ConnectTest, TheConnectTimeoutEndsAttemptsThatNobodyAnswers) {
  BlackHole proxy(/*upstream_port=*/1);
  proxy.StopForwarding();
  Client client(proxy.target(), {.connect_timeout = absl::Seconds(1)});
  const absl::Time start = absl::Now();
  const absl::Status status = client.GetServerInfo().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()),
              HasSubstr(proxy.target() + " did not answer within 1s"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(3));
}

TEST_F(ConnectTest, ATimeoutBeforeTheConnectionSaysSo) {
  BlackHole proxy(/*upstream_port=*/1);
  proxy.StopForwarding();
  const absl::Status status =
      Client(proxy.target()).GetServerInfo({.timeout = absl::Milliseconds(200)}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("connection to " + proxy.target()));
}

TEST(ConnectTargetTest, AnUnreachableTargetIsExplained) {
  const auto message = [](const std::string& target) {
    const absl::Status status = Client(target).GetServerInfo().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
    return std::string(status.message());
  };
  EXPECT_THAT(message("127.0.0.1:1"), HasSubstr("no server listens at 127.0.0.1:1"));
  EXPECT_THAT(message("unix:/no-such-folder/socket"),
              HasSubstr("there is no socket at unix:/no-such-folder/socket"));
}

TEST_F(ConnectTest, TlsToAPlainTextServerIsExplainedAtOnce) {
  Start("127.0.0.1:0");
  Client client(target(), {.retry = {.max_attempts = 1000}, .tls = TlsOptions{}});
  const absl::Status status = client.GetServerInfo().status();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(target() + " does not speak TLS"));
}

TEST(ConnectTargetTest, DurationsOutOfRangeAreRefused) {
  const auto field = [](const ClientOptions& options) {
    const absl::Status status = Client("127.0.0.1:1", options).GetServerInfo().status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    return DetailsOf(status).field_violations.at(0).field;
  };
  EXPECT_EQ(field({.connect_timeout = absl::ZeroDuration()}), "connect_timeout");
  EXPECT_EQ(field({.keepalive = KeepaliveOptions{.interval = absl::Milliseconds(999)}}),
            "keepalive.interval");
  EXPECT_EQ(field({.keepalive = KeepaliveOptions{.timeout = -absl::Seconds(1)}}),
            "keepalive.timeout");
}

TEST(ConnectTargetTest, WhatHasNoPortIsRefusedAtOnce) {
  const ClientOptions once = {.retry = {.max_attempts = 1}};
  for (const char* target : {"localhost", "localhost:65536"}) {
    const absl::Status status = Client(target, once).GetServerInfo().status();
    ASSERT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_EQ(DetailsOf(status).field_violations.at(0).field, "target");
  }
  for (const char* target : {"127.0.0.1:1", "unix:/tmp/no-such-folder/socket:99999"}) {
    const absl::Status status = Client(target, once).GetServerInfo().status();
    EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  }
}

TEST_F(ConnectTest, HealthSpeaksTheStandardProtocol) {
  Start("127.0.0.1:0");
  Client client(target());
  EXPECT_EQ(client.CheckHealth().value(), Health::kServing);
  EXPECT_EQ(client.CheckHealth("no.such.Service").value(), Health::kServiceUnknown);
  server_->GetHealthCheckService()->SetServingStatus(false);
  EXPECT_EQ(client.CheckHealth().value(), Health::kNotServing);
}

}  // namespace
}  // namespace theria::client
