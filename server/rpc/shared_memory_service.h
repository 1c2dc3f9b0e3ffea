#ifndef THERIA_SERVER_RPC_SHARED_MEMORY_SERVICE_H_
#define THERIA_SERVER_RPC_SHARED_MEMORY_SERVICE_H_

#include <string>

#include "server/cache/shared_regions.h"
#include "server/rpc/admission.h"
#include "theria/v1/shared_memory.grpc.pb.h"

// theria.v1.SharedMemoryService over SharedRegions, on gRPC's callback API. Thread-safe.

namespace theria::server {

class SharedMemoryService final : public v1::SharedMemoryService::CallbackService {
 public:
  // `regions` null: every call is UNIMPLEMENTED. It and the admission must outlive the service.
  // `socket`: path of the DescriptorSocket. The server's contexts are RequestContexts.
  SharedMemoryService(SharedRegions* regions, const Admission& admission, std::string socket);

  grpc::ServerUnaryReactor* CreateRegion(grpc::CallbackServerContext* context,
                                         const v1::CreateRegionRequest* request,
                                         v1::RegionInfo* response) override;
  grpc::ServerUnaryReactor* ImportRegion(grpc::CallbackServerContext* context,
                                         const v1::ImportRegionRequest* request,
                                         v1::RegionInfo* response) override;
  grpc::ServerUnaryReactor* RenewRegion(grpc::CallbackServerContext* context,
                                        const v1::RenewRegionRequest* request,
                                        v1::RegionInfo* response) override;
  grpc::ServerUnaryReactor* DeleteRegion(grpc::CallbackServerContext* context,
                                         const v1::DeleteRegionRequest* request,
                                         v1::DeleteRegionResponse* response) override;

 private:
  // Answers with what `make`, a function of the tenant, gives.
  template <typename Make>
  grpc::ServerUnaryReactor* Reply(grpc::CallbackServerContext* context, v1::RegionInfo* response,
                                  Make make);

  SharedRegions* const regions_;
  const Admission& admission_;
  const std::string socket_;
};

}  // namespace theria::server

#endif  // THERIA_SERVER_RPC_SHARED_MEMORY_SERVICE_H_
