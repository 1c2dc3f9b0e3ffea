// Downloads from a server of this process: the first byte says where its tensors are and whether
// the client breaks off, the rest is a serialised DownloadRequest, whose tensor and region may be
// Known's. What arrives, in the stream or in the region, are the tensor's bytes; not a byte of the
// regions outside of the part that the request names changes.

#include <cstddef>
#include <cstdint>
#include <string>

#include "grpcpp/impl/codegen/proto_utils.h"
#include "tests/fuzz/call.h"
#include "tests/fuzz/expect.h"

namespace theria::server {
namespace {

constexpr std::uint8_t kOnDevice = 1;
constexpr std::uint8_t kCut = 2;

// The part of a region that the request names, if it is one.
SharedPart PartOf(const v1::SharedMemoryRef& reference, Known& known) {
  SharedPart part{known.RegionOf(reference.region()), reference.offset_bytes(),
                  reference.size_bytes()};
  if (part.region == nullptr || part.offset_bytes > part.region->size_bytes() ||
      part.size_bytes > part.region->size_bytes() - part.offset_bytes) {
    return {};
  }
  return part;
}

std::string Streamed(Answer answer, const v1::DownloadRequest& request) {
  std::string bytes;
  bool is_first = true;
  for (grpc::ByteBuffer& message : answer.messages) {
    v1::DownloadResponse response;
    THERIA_FUZZ_EXPECT(
        grpc::SerializationTraits<v1::DownloadResponse>::Deserialize(&message, &response).ok());
    THERIA_FUZZ_EXPECT(response.has_info() == is_first);
    if (is_first) THERIA_FUZZ_EXPECT(response.info().handle() == request.handle());
    is_first = false;
    bytes += response.chunk();
  }
  return bytes;
}

void TestOne(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return;
  TensorServer& server =
      (data[0] & kOnDevice) != 0 ? TensorServer::OverFakeDevice() : TensorServer::OverHost();
  Known& known = server.known;
  Call call{.method = "Download"};
  call.messages.emplace_back(reinterpret_cast<const char*>(data + 1), size - 1);
  v1::DownloadRequest request;
  const bool is_request = request.ParseFromString(call.messages.front());
  if (is_request) {
    known.Name(request);
    call.messages.front() = request.SerializeAsString();
  }
  // Nothing would tell when the server is done with the region.
  call.is_cut = (data[0] & kCut) != 0 && !request.has_shared_memory();
  const Answer answer = Make(call, server);
  const SharedPart part =
      request.has_shared_memory() ? PartOf(request.shared_memory(), known) : SharedPart();
  if (answer.status.ok()) {
    THERIA_FUZZ_EXPECT(is_request);
    const auto lease = known.store().Acquire({}, request.handle());
    THERIA_FUZZ_EXPECT(lease.ok());
    const std::string streamed = Streamed(answer, request);
    THERIA_FUZZ_EXPECT(streamed.empty() == request.has_shared_memory());
    THERIA_FUZZ_EXPECT(!request.has_shared_memory() || part.region != nullptr);
    THERIA_FUZZ_EXPECT(known.Read(*lease) == (streamed.empty() ? known.Read(part) : streamed));
  }
  THERIA_FUZZ_EXPECT(known.IsUntouchedBut(part));
  if (part.region != nullptr) known.Refill();
}

}  // namespace
}  // namespace theria::server

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  theria::server::TestOne(data, size);
  return 0;
}
