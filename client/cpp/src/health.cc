#include "client/cpp/src/health.h"

#include "absl/synchronization/notification.h"
#include "google/protobuf/wrappers.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/proto_utils.h"

namespace theria::client {
namespace {

// On the wire, HealthCheckRequest { string service = 1 } is a StringValue, and
// HealthCheckResponse { ServingStatus status = 1 } an Int32Value.
using HealthStub =
    grpc::TemplatedGenericStub<google::protobuf::StringValue, google::protobuf::Int32Value>;
constexpr int kServing = 1;

}  // namespace

grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         grpc::ClientContext* context, const std::string& service, Health* health) {
  google::protobuf::StringValue request;
  google::protobuf::Int32Value response;
  request.set_value(service);
  grpc::Status status;
  absl::Notification done;
  HealthStub(channel).UnaryCall(context, "/grpc.health.v1.Health/Check", {}, &request, &response,
                                [&](grpc::Status result) {
                                  status = std::move(result);
                                  done.Notify();
                                });
  done.WaitForNotification();
  // The protocol tells of an unknown service by this code.
  if (status.error_code() == grpc::StatusCode::NOT_FOUND) {
    *health = Health::kServiceUnknown;
    return grpc::Status::OK;
  }
  *health = response.value() == kServing ? Health::kServing : Health::kNotServing;
  return status;
}

}  // namespace theria::client
