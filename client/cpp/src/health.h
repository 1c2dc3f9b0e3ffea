#ifndef THERIA_CLIENT_CPP_SRC_HEALTH_H_
#define THERIA_CLIENT_CPP_SRC_HEALTH_H_

#include <memory>
#include <string>

#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/status.h"
#include "theria/client.h"

namespace theria::client {

// grpc.health.v1.Health/Check: blocks; sets `health` if the status is OK.
grpc::Status CheckHealth(const std::shared_ptr<grpc::Channel>& channel,
                         grpc::ClientContext* context, const std::string& service, Health* health);

}  // namespace theria::client

#endif  // THERIA_CLIENT_CPP_SRC_HEALTH_H_
