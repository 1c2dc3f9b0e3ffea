#include "server/rpc/grpc_server.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/impl/codegen/client_unary_call.h"
#include "gtest/gtest.h"
#include "tests/unit/server/rpc/server_fixture.h"

namespace theria::server {
namespace {

using testing::HasSubstr;

grpc::ByteBuffer Bytes(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

std::string Text(const grpc::ByteBuffer& bytes) {
  grpc::Slice slice;
  if (!bytes.DumpToSingleSlice(&slice).ok()) return "";
  return {reinterpret_cast<const char*>(slice.begin()), slice.size()};
}

// Messages of grpc.health.v1, which needs no more than two fields.
const grpc::ByteBuffer& AnyService() {
  static const auto* const request = new grpc::ByteBuffer(Bytes(""));
  return *request;
}
grpc::ByteBuffer OfService(const std::string& name) {
  return Bytes(std::string("\x0a").append(1, static_cast<char>(name.size())).append(name));
}
constexpr char kServing[] = "\x08\x01";
constexpr char kNotServing[] = "\x08\x02";

class GrpcServerTest : public ServerFixture {
 protected:
  grpc::Status Call(const char* method, const grpc::ByteBuffer& request, grpc::ByteBuffer* response,
                    grpc::ClientContext* context) {
    return grpc::internal::BlockingUnaryCall<grpc::ByteBuffer, grpc::ByteBuffer>(
        channel_.get(), grpc::internal::RpcMethod(method, grpc::internal::RpcMethod::NORMAL_RPC),
        context, request, response);
  }
  grpc::Status Call(const char* method, const grpc::ByteBuffer& request,
                    grpc::ByteBuffer* response) {
    grpc::ClientContext context;
    return Call(method, request, response, &context);
  }
};

TEST_F(GrpcServerTest, ChoosesAPort) {
  EXPECT_THAT(server_->addresses().front(), testing::MatchesRegex("127.0.0.1:[1-9][0-9]+"));
}

TEST_F(GrpcServerTest, TellsThatAPortIsInUse) {
  const auto second = GrpcServer::Start({.listen = {server_->addresses().front()},
                                         .max_message_bytes = kMaxMessageBytes,
                                         .max_transport_bytes = std::size_t{64} << 20},
                                        {}, {}, rpc_metrics_, gate_);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(server_->addresses().front()));
}

TEST_F(GrpcServerTest, HealthKnowsEachService) {
  for (const auto& request : {AnyService(), OfService("theria.v1.AttentionService"),
                              OfService("theria.v1.ServerService")}) {
    grpc::ByteBuffer response;
    ASSERT_TRUE(Call("/grpc.health.v1.Health/Check", request, &response).ok());
    EXPECT_EQ(Text(response), kServing);
  }
  grpc::ByteBuffer response;
  EXPECT_EQ(
      Call("/grpc.health.v1.Health/Check", OfService("theria.v1.Other"), &response).error_code(),
      grpc::StatusCode::NOT_FOUND);
}

TEST_F(GrpcServerTest, DrainTellsHealthAndFinishesAcceptedWork) {
  backend_.blocks = true;
  std::thread accepted([this] {
    v1::ForwardResponse response;
    EXPECT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
  });
  backend_.blocked.Wait();

  grpc::ClientContext watch_context;
  const std::unique_ptr<grpc::ClientReader<grpc::ByteBuffer>> watch(
      grpc::internal::ClientReaderFactory<grpc::ByteBuffer>::Create(
          channel_.get(),
          grpc::internal::RpcMethod("/grpc.health.v1.Health/Watch",
                                    grpc::internal::RpcMethod::SERVER_STREAMING),
          &watch_context, AnyService()));
  grpc::ByteBuffer health;
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(Text(health), kServing);

  server_->StopServing();
  ASSERT_TRUE(watch->Read(&health));
  EXPECT_EQ(Text(health), kNotServing);
  ASSERT_TRUE(Call("/grpc.health.v1.Health/Check", AnyService(), &health).ok());
  EXPECT_EQ(Text(health), kNotServing);
  v1::ForwardResponse response;
  EXPECT_EQ(Forward(Qkv<v1::ForwardRequest>(), &response).error_code(),
            grpc::StatusCode::UNAVAILABLE);

  std::thread unblock([this] {
    absl::SleepFor(absl::Milliseconds(30));
    backend_.unblock.Notify();
  });
  // An open watch does not hold the server up.
  EXPECT_TRUE(server_->Shutdown(absl::Now() + absl::Seconds(60)));
  EXPECT_FALSE(watch->Read(&health));
  unblock.join();
  accepted.join();
}

TEST_F(GrpcServerTest, DrainCancelsWhatIsOutOfTime) {
  backend_.blocks = true;
  std::thread accepted([this] {
    v1::ForwardResponse response;
    EXPECT_FALSE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
  });
  backend_.blocked.Wait();
  server_->StopServing();
  EXPECT_FALSE(server_->Shutdown(absl::Now() + absl::Milliseconds(20)));
  accepted.join();
}

TEST_F(GrpcServerTest, BytesThatAreNoMessageAreInvalid) {
  grpc::ByteBuffer response;
  const grpc::Status status =
      Call("/theria.v1.AttentionService/Forward", Bytes("\xff\xff\xff"), &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("not a message"));
}

TEST_F(GrpcServerTest, UnknownMethodsShareOneLabel) {
  for (const char* method : {"/theria.v1.AttentionService/Nope", "/grpc.made.up/A", "/x/y"}) {
    grpc::ByteBuffer response;
    EXPECT_EQ(Call(method, Bytes(""), &response).error_code(), grpc::StatusCode::UNIMPLEMENTED);
  }
  const std::string text = registry_.Text();
  EXPECT_THAT(text, HasSubstr("{grpc_code=\"Unimplemented\",grpc_method=\"unknown\","
                              "grpc_service=\"\"} 3\n"));
  EXPECT_THAT(text, testing::Not(HasSubstr("Nope")));
}

TEST_F(GrpcServerTest, MessagesAreBounded) {
  v1::ForwardRequest request = Qkv<v1::ForwardRequest>();
  request.mutable_q()->set_data(std::string(kMaxMessageBytes, 'x'));
  v1::ForwardResponse response;
  EXPECT_EQ(Forward(request, &response).error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
}

TEST_F(GrpcServerTest, EveryRpcIsCountedAndTimed) {
  v1::ForwardResponse response;
  ASSERT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
  EXPECT_FALSE(Forward({}, &response).ok());
  grpc::ByteBuffer health;
  ASSERT_TRUE(Call("/grpc.health.v1.Health/Check", AnyService(), &health).ok());
  const std::string text = registry_.Text();
  constexpr char kForward[] =
      "grpc_method=\"Forward\",grpc_service=\"theria.v1.AttentionService\"} ";
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_started_total{") + kForward + "2\n"));
  EXPECT_THAT(text, HasSubstr(std::string("grpc_server_handled_total{grpc_code=\"OK\",") +
                              kForward + "1\n"));
  EXPECT_THAT(text,
              HasSubstr(std::string("grpc_server_handled_total{grpc_code=\"InvalidArgument\",") +
                        kForward + "1\n"));
  EXPECT_THAT(text,
              HasSubstr(std::string("grpc_server_handling_seconds_count{") + kForward + "2\n"));
  EXPECT_THAT(text, HasSubstr("grpc_server_handled_total{grpc_code=\"OK\",grpc_method=\"Check\","
                              "grpc_service=\"grpc.health.v1.Health\"} 1\n"));
}

TEST_F(GrpcServerTest, TheIdIsTheClientsToo) {
  grpc::ClientContext context;
  v1::ForwardResponse response;
  ASSERT_TRUE(attention_->Forward(&context, Qkv<v1::ForwardRequest>(), &response).ok());
  const auto& metadata = context.GetServerInitialMetadata();
  const auto id = metadata.find("theria-request-id");
  ASSERT_NE(id, metadata.end());
  EXPECT_EQ(std::string(id->second.data(), id->second.size()), response.execution().request_id());
  EXPECT_EQ(response.execution().request_id().size(), 16u);
}

TEST_F(GrpcServerTest, WritesOneLineForEachRpc) {
  testing::internal::CaptureStderr();
  SetUpLog(spdlog::level::info, LogFormat::kLogfmt);
  v1::ForwardResponse response;
  ASSERT_TRUE(Forward(Qkv<v1::ForwardRequest>(), &response).ok());
  ASSERT_TRUE(gate_.AwaitIdle(absl::Now() + absl::Seconds(20)));
  SetUpLog(spdlog::level::off, LogFormat::kLogfmt);
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, testing::ContainsRegex(
                       "level=info event=rpc id=" + response.execution().request_id() +
                       " method=/theria.v1.AttentionService/Forward code=OK peer=ipv4:127.0.0.1:"
                       "[0-9]+ seconds=[0-9.e-]+ request_bytes=[0-9]+ queue_seconds=[0-9.e-]+ "
                       "compute_seconds=0.002 response_bytes=[0-9]+\n$"));
}

TEST_F(GrpcServerTest, ReflectionListsTheServices) {
  grpc::ClientContext context;
  const std::unique_ptr<grpc::ClientReaderWriter<grpc::ByteBuffer, grpc::ByteBuffer>> stream(
      grpc::internal::ClientReaderWriterFactory<grpc::ByteBuffer, grpc::ByteBuffer>::Create(
          channel_.get(),
          grpc::internal::RpcMethod(
              "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
              grpc::internal::RpcMethod::BIDI_STREAMING),
          &context));
  ASSERT_TRUE(stream->Write(Bytes(std::string("\x3a\x00", 2))));  // list_services = ""
  grpc::ByteBuffer response;
  ASSERT_TRUE(stream->Read(&response));
  EXPECT_THAT(Text(response), HasSubstr("theria.v1.AttentionService"));
  EXPECT_THAT(Text(response), HasSubstr("theria.v1.ServerService"));
  EXPECT_THAT(Text(response), HasSubstr("grpc.health.v1.Health"));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
}

TEST_F(GrpcServerTest, UnixSocketsAreForOwnerAndGroupAndGoAway) {
  const std::string path =
      testing::TempDir() + "theria-grpc-server-test-" + std::to_string(getpid()) + ".sock";
  {
    auto server = GrpcServer::Start({.listen = {"unix:" + path},
                                     .max_message_bytes = kMaxMessageBytes,
                                     .max_transport_bytes = std::size_t{64} << 20},
                                    {}, {}, rpc_metrics_, gate_);
    ASSERT_TRUE(server.ok()) << server.status();
    EXPECT_EQ((*server)->addresses().front(), "unix:" + path);
    struct stat status {};
    ASSERT_EQ(stat(path.c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0660u);
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

}  // namespace
}  // namespace theria::server
