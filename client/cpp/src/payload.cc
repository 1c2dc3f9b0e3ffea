#include "client/cpp/src/payload.h"

#include <string>

#include "proto/wire.h"

namespace theria::client {
namespace {

// What stands before the payload's bytes: tag and size of each field of its path.
std::string Head(const Payload& payload) {
  std::string head;
  for (auto field = payload.path.rbegin(); field != payload.path.rend(); ++field) {
    head.insert(0, wire::TagAndSize(*field, head.size() + payload.bytes.size()));
  }
  return head;
}

}  // namespace

grpc::Slice ElementSlice(const Tensor& tensor, std::size_t offset_bytes, std::size_t size_bytes) {
  const char* const data = static_cast<const char*>(tensor.data()) + offset_bytes;
  if (!tensor.owns_elements()) return {data, size_bytes};
  // gRPC takes a slice's bytes as mutable but only reads what it sends.
  return {const_cast<char*>(data), size_bytes,
          [](void* owner) { delete static_cast<Tensor*>(owner); }, new Tensor(tensor)};
}

grpc::ByteBuffer EncodeMessage(const google::protobuf::MessageLite& message,
                               absl::Span<const Payload> payloads) {
  std::vector<grpc::Slice> slices = {grpc::Slice(message.SerializeAsString())};
  for (const Payload& payload : payloads) {
    slices.emplace_back(Head(payload));
    slices.push_back(payload.bytes);
  }
  return {slices.data(), slices.size()};
}

}  // namespace theria::client
