#include "server/rpc/request_context.h"

#include <cstdint>
#include <random>

#include "absl/strings/str_cat.h"

namespace theria::server {
namespace {

class RequestContextAllocator : public grpc::ContextAllocator {
 public:
  grpc::CallbackServerContext* NewCallbackServerContext() override { return new RequestContext; }
  void Release(grpc::CallbackServerContext* context) override {
    // Calls of unknown methods end here as well, with a context that gRPC made and frees.
    delete dynamic_cast<RequestContext*>(context);
  }
};

}  // namespace

std::string NewRequestId() {
  // Random, not counted: no caller sees from his ids how many calls the others make.
  thread_local std::random_device random;
  const std::uint64_t id = std::uint64_t{random()} << 32 | random();
  return absl::StrCat(absl::Hex(id, absl::kZeroPad16));
}

std::unique_ptr<grpc::ContextAllocator> MakeContextAllocator() {
  return std::make_unique<RequestContextAllocator>();
}

}  // namespace theria::server
