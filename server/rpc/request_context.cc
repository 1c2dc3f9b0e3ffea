#include "server/rpc/request_context.h"

#include <atomic>
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
  // The upper half tells processes apart, the lower counts.
  static const std::uint64_t process = std::uint64_t{std::random_device()()} << 32;
  static std::atomic<std::uint32_t> count{0};
  const std::uint64_t id = process | count.fetch_add(1, std::memory_order_relaxed);
  return absl::StrCat(absl::Hex(id, absl::kZeroPad16));
}

std::unique_ptr<grpc::ContextAllocator> MakeContextAllocator() {
  return std::make_unique<RequestContextAllocator>();
}

}  // namespace theria::server
