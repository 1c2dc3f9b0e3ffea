#include "server/rpc/shared_memory_service.h"

#include <utility>

#include "absl/time/time.h"
#include "server/rpc/request_context.h"
#include "server/rpc/shared_memory_codec.h"
#include "server/rpc/unary_job.h"

namespace theria::server {
namespace {

constexpr char kNameField[] = "name";

absl::Status Unshared() {
  return absl::UnimplementedError("this server shares no memory: it runs without --shared-memory");
}

}  // namespace

SharedMemoryService::SharedMemoryService(SharedRegions* regions, const Admission& admission,
                                         std::string socket)
    : regions_(regions), admission_(admission), socket_(std::move(socket)) {}

template <typename Make>
grpc::ServerUnaryReactor* SharedMemoryService::Reply(grpc::CallbackServerContext* context,
                                                     v1::RegionInfo* response, Make make) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status admitted = admission_.Admit(caller); !admitted.ok()) {
    return FinishNow(context, admitted);
  }
  if (regions_ == nullptr) return FinishNow(context, Unshared());
  const absl::StatusOr<SharedRegionInfo> info = make(caller.tenant());
  if (!info.ok()) return FinishNow(context, FromRegions(info.status(), kNameField));
  EncodeRegionInfo(*info, *response);
  return FinishNow(context, absl::OkStatus());
}

grpc::ServerUnaryReactor* SharedMemoryService::CreateRegion(grpc::CallbackServerContext* context,
                                                            const v1::CreateRegionRequest* request,
                                                            v1::RegionInfo* response) {
  return Reply(context, response, [&](const TenantId& tenant) {
    response->set_socket(socket_);
    return regions_->Create(tenant, request->size_bytes(), absl::Milliseconds(request->ttl_ms()));
  });
}

grpc::ServerUnaryReactor* SharedMemoryService::ImportRegion(grpc::CallbackServerContext* context,
                                                            const v1::ImportRegionRequest* request,
                                                            v1::RegionInfo* response) {
  return Reply(context, response, [&](const TenantId& tenant) {
    return regions_->Import(tenant, request->cuda_ipc_handle(), request->size_bytes(),
                            absl::Milliseconds(request->ttl_ms()));
  });
}

grpc::ServerUnaryReactor* SharedMemoryService::RenewRegion(grpc::CallbackServerContext* context,
                                                           const v1::RenewRegionRequest* request,
                                                           v1::RegionInfo* response) {
  return Reply(context, response, [&](const TenantId& tenant) {
    return regions_->Renew(tenant, request->name(), absl::Milliseconds(request->ttl_ms()));
  });
}

grpc::ServerUnaryReactor* SharedMemoryService::DeleteRegion(
    grpc::CallbackServerContext* context, const v1::DeleteRegionRequest* request,
    v1::DeleteRegionResponse* /*response*/) {
  RequestContext& caller = RequestContext::Of(context);
  if (absl::Status admitted = admission_.Admit(caller); !admitted.ok()) {
    return FinishNow(context, admitted);
  }
  if (regions_ == nullptr) return FinishNow(context, Unshared());
  return FinishNow(context,
                   FromRegions(regions_->Delete(caller.tenant(), request->name()), kNameField));
}

}  // namespace theria::server
