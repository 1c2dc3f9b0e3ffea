#include <unistd.h>

#include <memory>
#include <set>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "gtest/gtest.h"
#include "theria/client.h"
#include "theria/error_details.h"
#include "theria/v1/attention.grpc.pb.h"
#include "theria/v1/server.grpc.pb.h"

// A Client over a real channel to a server in the same process.

namespace theria::client {
namespace {

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
